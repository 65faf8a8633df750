"""A LanceDB database: a folder with one table, whose columns are those of the Arrow file.

LanceDB takes the column `vectors`, a list of vectors in each row, for a multivector and searches it with MaxSim.
"""

from colbertz.errors import require
from colbertz.integrations.export import arrow
from colbertz.integrations.export.batches import Source
from colbertz.integrations.export.folder import new_folder


def write(source: Source, out: str, name: str) -> None:
    """Write the table `name` of a new database in the folder `out`.

    Raises:
        FileExistsError: if `out` is not a new or empty folder.
        MissingExtra: without lancedb.
    """
    lancedb = require("lancedb", "export")
    columns = arrow.schema(source)
    with new_folder(out) as folder:
        lancedb.connect(str(folder)).create_table(name, data=arrow.record_batches(source), schema=columns)
