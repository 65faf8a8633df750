"""The programming languages whose files are cut by their syntax: a table of grammars and of their names for things."""

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Parser


@dataclass(frozen=True)
class Language:
    """A grammar and the types of its nodes, separated by spaces.

    Attributes:
        module: the package of the grammar.
        functions: what becomes a chunk: functions and methods.
        containers: what has functions inside: classes, modules, name spaces.
        wrappers: what surrounds a definition and belongs to it, such as decorators and `export`.
        leading: what stands before a definition and belongs to it, besides comments.
        language: the function of the module that returns the grammar.
        values: declarations that are functions if a node of the type in `function_values` is in them.
        function_values: see `values`.
        calls: whether definitions are calls of macros, as in Elixir.
    """

    module: str
    functions: str = ""
    containers: str = ""
    wrappers: str = ""
    leading: str = ""
    language: str = "language"
    values: str = ""
    function_values: str = ""
    calls: bool = False


_JAVASCRIPT = Language(
    "tree_sitter_javascript",
    "function_declaration generator_function_declaration method_definition",
    "class_declaration class",
    wrappers="export_statement",
    leading="decorator",
    values="lexical_declaration variable_declaration field_definition expression_statement pair",
    function_values="arrow_function function_expression class",
)
_TYPESCRIPT = Language(
    "tree_sitter_typescript",
    f"{_JAVASCRIPT.functions} function_signature method_signature abstract_method_signature type_alias_declaration "
    "enum_declaration",
    f"{_JAVASCRIPT.containers} abstract_class_declaration interface_declaration internal_module module",
    wrappers="export_statement ambient_declaration",
    leading="decorator",
    language="language_typescript",
    values=f"{_JAVASCRIPT.values} public_field_definition",
    function_values=_JAVASCRIPT.function_values,
)
_OCAML = Language(
    "tree_sitter_ocaml",
    "value_definition type_definition exception_definition external method_definition value_specification",
    "module_definition module_type_definition class_definition",
    language="language_ocaml",
)
LANGUAGES = {
    "bash": Language("tree_sitter_bash", "function_definition"),
    "c": Language(
        "tree_sitter_c",
        "function_definition struct_specifier union_specifier enum_specifier type_definition preproc_function_def",
        wrappers="linkage_specification preproc_ifdef preproc_if preproc_else preproc_elif declaration_list",
    ),
    "cpp": Language(
        "tree_sitter_cpp",
        "function_definition union_specifier enum_specifier type_definition preproc_function_def concept_definition",
        "class_specifier struct_specifier namespace_definition",
        wrappers="linkage_specification preproc_ifdef preproc_if preproc_else preproc_elif declaration_list "
        "template_declaration",
    ),
    "csharp": Language(
        "tree_sitter_c_sharp",
        "method_declaration constructor_declaration destructor_declaration operator_declaration property_declaration "
        "indexer_declaration enum_declaration delegate_declaration local_function_statement",
        "class_declaration struct_declaration interface_declaration record_declaration namespace_declaration "
        "file_scoped_namespace_declaration",
        wrappers="global_statement",
    ),
    "elixir": Language("tree_sitter_elixir", leading="unary_operator", calls=True),
    "go": Language("tree_sitter_go", "function_declaration method_declaration type_declaration", wrappers=""),
    "haskell": Language(
        "tree_sitter_haskell",
        "function bind data_type newtype type_synomym instance",
        "class",
        wrappers="declarations",
        leading="signature haddock",
    ),
    "java": Language(
        "tree_sitter_java",
        "method_declaration constructor_declaration compact_constructor_declaration enum_declaration "
        "annotation_type_declaration",
        "class_declaration interface_declaration record_declaration",
    ),
    "javascript": _JAVASCRIPT,
    "julia": Language(
        "tree_sitter_julia",
        "function_definition macro_definition struct_definition abstract_definition",
        "module_definition",
        values="assignment",
        function_values="call_expression",
        leading="string_literal",
    ),
    "kotlin": Language(
        "tree_sitter_kotlin",
        "function_declaration secondary_constructor type_alias",
        "class_declaration object_declaration companion_object",
    ),
    "lua": Language(
        "tree_sitter_lua",
        "function_declaration",
        values="assignment_statement variable_declaration",
        function_values="function_definition",
    ),
    "ocaml": _OCAML,
    "ocaml_interface": Language(
        _OCAML.module, _OCAML.functions, _OCAML.containers, language="language_ocaml_interface"
    ),
    "php": Language(
        "tree_sitter_php",
        "function_definition method_declaration enum_declaration",
        "class_declaration interface_declaration trait_declaration namespace_definition",
        language="language_php",
    ),
    "python": Language(
        "tree_sitter_python", "function_definition", "class_definition", wrappers="decorated_definition"
    ),
    "ruby": Language("tree_sitter_ruby", "method singleton_method", "class module singleton_class"),
    "rust": Language(
        "tree_sitter_rust",
        "function_item struct_item enum_item union_item macro_definition type_item function_signature_item",
        "impl_item trait_item mod_item",
        wrappers="foreign_mod_item",
        leading="attribute_item",
    ),
    "scala": Language(
        "tree_sitter_scala",
        "function_definition type_definition function_declaration given_definition",
        "class_definition object_definition trait_definition enum_definition package_object",
    ),
    "swift": Language(
        "tree_sitter_swift",
        "function_declaration init_declaration deinit_declaration subscript_declaration typealias_declaration "
        "protocol_function_declaration",
        "class_declaration protocol_declaration",
    ),
    "tsx": Language(
        "tree_sitter_typescript",
        _TYPESCRIPT.functions,
        _TYPESCRIPT.containers,
        _TYPESCRIPT.wrappers,
        _TYPESCRIPT.leading,
        "language_tsx",
        _TYPESCRIPT.values,
        _TYPESCRIPT.function_values,
    ),
    "typescript": _TYPESCRIPT,
}


@cache
def parser_of(language: str) -> "Parser":
    """The parser of a language. Its grammar is imported on the first call."""
    from tree_sitter import Language as Grammar
    from tree_sitter import Parser

    row = LANGUAGES[language]
    return Parser(Grammar(getattr(import_module(row.module), row.language)()))


@cache
def node_types(language: str) -> dict[str, str]:
    """For each node type of a language's table its role: the name of the column that has it."""
    row = LANGUAGES[language]
    columns = ("functions", "containers", "wrappers", "leading", "values")
    return {name: column for column in columns for name in getattr(row, column).split()}
