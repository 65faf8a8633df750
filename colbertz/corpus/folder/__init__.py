"""A folder as documents: which of its files are read, and the chunks that each of them is cut into.

skipped.py     why a file is not read, and counts of it
ignore.py      the patterns of ignore files, as Git reads them
repository.py  the ignore files that apply to a folder from outside it: of the repository around it and of the user
walk.py        the files of a folder
kinds.py       what a file is, by its name
content.py     the bytes of a file as text; binary and generated files are recognised here
sections.py    a run of lines with its heading
cutting.py     sections as chunks of a good size
code.py        source code by functions, classes and methods; languages.py has the table of languages
markup.py      Markdown, reStructuredText and plain text
html.py, man.py, notebook.py, office.py    formats whose text has to be extracted first; extract.py is the process
               that reads PDF and docx
data.py        configuration and data
chunks.py      the chunks of any file

Nothing here imports torch or numpy. A grammar is imported when the first file of its language is read.
"""
