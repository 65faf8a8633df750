# ruff: noqa: E501 (samples of source code)
"""Each language's table, on a sample whose definitions were read by eye."""
# ruff: noqa: E501 -- the samples are easier to read in few lines

import itertools

import pytest

from colbertz.corpus.folder.chunks import chunks_of
from colbertz.corpus.folder.code import code
from colbertz.corpus.folder.kinds import LANGUAGE_OF_SUFFIX, format_of
from colbertz.corpus.folder.languages import LANGUAGES

FILLER = "x" * 600  # a class as short as those below is one chunk; with a long comment in it, its methods are sections
# For each file name: the source, in which FILLER stands for a long comment, and each section's path and first line.
SAMPLES = {
    "a.py": (
        "import os\n\nclass A(B):\n    # FILLER\n    @property\n    def f(self):\n        pass\n\n    async def g(self): ...\n"
        "if x:\n    def h(): pass\n",
        [("A", 3), ("A.f", 4), ("A.g", 9), ("h", 11)],
    ),
    "a.js": (
        "// One.\nexport function add(a) {\n}\nexport default class Queue {\n  // FILLER\n  push(item) {}\n"
        "  handle = async (e) => {\n  };\n}\nexport const retry = async (f) => {\n};\nmodule.exports.later = function () {\n};\n"
        "describe('a queue', () => {\n  it('pops', () => {\n  });\n});\n(function () {\n  function inner() {}\n})();\n",
        [
            ("add", 1),
            ("Queue", 4),
            ("Queue.push", 5),
            ("Queue.handle", 7),
            ("retry", 10),
            ("module.exports.later", 12),
            ("a queue", 14),
            ("a queue.pops", 15),
            ("inner", 19),
        ],
    ),
    "a.ts": (
        "export interface Shape { area(): number; }\ntype Id = string;\nenum Color { Red }\n@Component({})\n"
        "export class Circle implements Shape {\n  // FILLER\n  constructor(private r: number) {}\n  area(): number { return 3; }\n}\n"
        "export const useThing = (a: string) => {\n  return a;\n};\n",
        [
            ("Shape", 1),
            ("Id", 2),
            ("Color", 3),
            ("Circle", 4),
            ("Circle.constructor", 6),
            ("Circle.area", 8),
            ("useThing", 10),
        ],
    ),
    "a.tsx": (
        "export function App(props: P) {\n  return <div>{props.x}</div>;\n}\nconst B: FC = () => (\n  <b/>\n);\n",
        [("App", 1), ("B", 4)],
    ),
    "a.go": (
        "package main\n\n// Server serves.\ntype Server struct {\n}\n\nfunc (s *Server) Start(x int) error {\n}\n"
        "func New[T any](a T) *Server { return nil }\nfunc (l *List[T]) Push(x T) {\n}\n",
        [("Server", 3), ("Server.Start", 7), ("New", 9), ("List.Push", 10)],
    ),
    "a.rs": (
        "use std::io;\n/// A point.\n#[derive(Debug)]\npub struct Point { x: i32 }\nimpl<T: Clone> fmt::Display for Point<T> {\n"
        "    // FILLER\n    fn fmt(&self) -> i32 { 1 }\n    pub fn norm(&self) -> f64 {\n    }\n}\ntrait Shape { fn area(&self); }\n",
        [("Point", 2), ("Point.fmt", 6), ("Point.norm", 8), ("Shape", 11)],
    ),
    "a.java": (
        "package x;\n/** Doc. */\n@Service\npublic class Foo extends Bar {\n    // FILLER\n\n    public Foo(int a) {}\n    @Override\n"
        "    public String toString() {\n    }\n    static class Inner { void go() { } }\n}\nenum E { A }\nrecord P(int x) { }\n",
        [("Foo", 2), ("Foo.Foo", 7), ("Foo.toString", 8), ("Foo.Inner", 11), ("E", 13), ("P", 14)],
    ),
    "a.c": (
        "#define MAX(a) (a)\n#ifdef X\nstatic int inside(void) { return 1; }\n#endif\n/* A node. */\nstruct node {\n    int x;\n};\n"
        "typedef struct { int y; } thing_t;\nstatic inline int *add(int a)\n{\n}\nPyObject *\nPyFoo_New(PyObject *self)\n{\n}\n",
        [("MAX", 1), ("inside", 3), ("node", 5), ("thing_t", 9), ("add", 10), ("PyFoo_New", 13)],
    ),
    "a.cpp": (
        "namespace foo { namespace bar {\n// FILLER\n\ntemplate <typename T>\nclass Vec : public Base {\n  // FILLER\n  int size() const {}\n"
        "};\nint Vec<int>::get(int i) {\n}\n}}\nbool operator==(A a) {\n}\n",
        [("foo", 1), ("foo.bar.Vec", 4), ("foo.bar.Vec.size", 6), ("foo.bar.Vec.get", 9), ("operator==", 12)],
    ),
    "a.cs": (
        "namespace A.B {\n  // FILLER\n\n  [Serializable]\n  public class Foo : Bar {\n    // FILLER\n\n    public int X { get; set; }\n    public Foo() { }\n"
        "    public async Task<int> Run(int a) { }\n  }\n  interface I { void F(); }\n}\n",
        [("A.B", 1), ("A.B.Foo", 4), ("A.B.Foo.X", 8), ("A.B.Foo.Foo", 9), ("A.B.Foo.Run", 10), ("A.B.I", 12)],
    ),
    "a.rb": (
        "module Foo\n  # FILLER\n\n  class Bar < Baz\n    # FILLER\n\n    # Makes.\n    def initialize(x)\n    end\n    def self.build; end\n    def ok?\n    end\n  end\nend\n",
        [("Foo", 1), ("Foo.Bar", 4), ("Foo.Bar.initialize", 7), ("Foo.Bar.build", 10), ("Foo.Bar.ok?", 11)],
    ),
    "a.php": (
        "<?php\n/** Doc */\nclass Foo extends Bar {\n    // FILLER\n\n    public function run(int $a): int { return $a; }\n}\nfunction helper() { }\n",
        [("Foo", 2), ("Foo.run", 6), ("helper", 8)],
    ),
    "a.sh": ("set -e\n# Greets.\ngreet() {\n  echo hi\n}\nfunction bye {\n  echo\n}\n", [("greet", 2), ("bye", 6)]),
    "a.scala": (
        "object Foo {\n  // FILLER\n\n  /** doc */\n  def bar(x: Int): Int = x\n  case class P(a: Int)\n}\ntrait T { def go(): Unit }\n",
        [("Foo", 1), ("Foo.bar", 4), ("Foo.P", 6), ("T", 8)],
    ),
    "a.kt": (
        "/** Doc */\nclass A(val x: Int) : B() {\n    // FILLER\n\n    fun run(a: Int): Int {\n        return a\n    }\n}\n\nfun top(a: String) = a\n",
        [("A", 1), ("A.run", 5), ("top", 10)],
    ),
    "a.lua": (
        "local M = {}\n-- Adds.\nfunction M.add(a)\nend\nlocal function helper() end\nM.sub = function(a)\nend\n",
        [("M.add", 2), ("helper", 5), ("M.sub", 6)],
    ),
    "a.swift": (
        "/// Doc\npublic struct Point: Codable {\n    // FILLER\n\n    init(x: Int) { }\n    func norm() -> Double { }\n}\nprotocol P { func go() }\nfunc top(a: Int) -> Int { a }\n",
        [("Point", 1), ("Point.init", 5), ("Point.norm", 6), ("P", 8), ("top", 9)],
    ),
    "a.hs": (
        "module Foo where\n-- | Doc.\nbar :: Int -> Int\nbar 0 = 1\nbar n = n * 2\ndata T = A | B\nclass C a where\n  f :: a -> Int\n",
        [("bar", 2), ("T", 6), ("C", 7)],
    ),
    "a.jl": (
        'module Foo\n# FILLER\n\n"""\nDoc of f.\n"""\nfunction f(x::Int)\n    return x\nend\nstruct P{T}\n    a::T\nend\nend\n',
        [("Foo", 1), ("Foo.f", 4), ("Foo.P", 10)],
    ),
    "a.ml": (
        "open List\n(** Doc. *)\nlet rec add a b = a + b\ntype t = A | B\nmodule M = struct\n  let f x = x\nend\n",
        [("add", 2), ("t", 4), ("M", 5)],
    ),
    "a.mli": ("(** Adds. *)\nval add : int -> int\ntype t\n", [("add", 1), ("t", 3)]),
    "a.ex": (
        'defmodule Foo.Bar do\n  # FILLER\n\n  @doc "Adds."\n  @spec add(integer) :: integer\n  def add(a, b) when a > 0 do\n    a\n  end\n  defp priv(x), do: x\nend\n',
        [("Foo.Bar", 1), ("Foo.Bar.add", 4), ("Foo.Bar.priv", 9)],
    ),
}


def test_every_language_has_a_sample() -> None:
    assert {format_of(name) for name in SAMPLES} == set(LANGUAGES) == set(LANGUAGE_OF_SUFFIX.values())
    assert len(LANGUAGES) >= 20


@pytest.mark.parametrize("name", SAMPLES)
def test_definitions(name: str) -> None:
    source, expected = SAMPLES[name]
    lines = source.replace("FILLER", FILLER).split("\n")
    sections = code(lines, format_of(name)).sections
    assert [(".".join(section.path), section.start + 1) for section in sections if section.signature] == expected


@pytest.mark.parametrize("name", SAMPLES)
def test_an_unfinished_file_still_has_its_definitions(name: str) -> None:
    """Half a file, as while it is written: what is complete is still found, and every line is in a section."""
    source = SAMPLES[name][0].replace("FILLER", FILLER)
    lines = (source + source[: len(source) * 2 // 3]).split("\n")
    sections = code(lines, format_of(name)).sections
    assert sections[0].start == 0 and sections[-1].end == len(lines)
    assert all(first.end == second.start for first, second in itertools.pairwise(sections))
    assert any(section.signature for section in sections)


def test_a_header_is_c_or_cpp_by_its_content() -> None:
    cpp = code(
        ["namespace a {", "// " + FILLER, "", "class B {", "// " + FILLER, "", "  int f() {}", "};", "}"], "header"
    )
    assert [".".join(section.path) for section in cpp.sections] == ["a", "a.B", "a.B.f"]
    c = code(["struct class { int template; };", "int new(int this) {", "}"], "header")
    assert [".".join(section.path) for section in c.sections] == ["class", "new"]


def test_deep_nesting_is_cut_and_does_not_overflow() -> None:
    nested = "\n".join(f"{' ' * i}class A{i}:" for i in range(300)) + "\n" + " " * 300 + "x = 1\n"
    braces = "{" * 20_000 + "\n" + "}" * 20_000
    for name, source in (("a.py", nested), ("a.go", braces), ("a.c", "(" * 20_000), ("a.rs", "mod a {" * 3000)):
        assert isinstance(chunks_of(source.encode(), name), list)


def test_a_grammar_that_does_not_end_is_stopped() -> None:
    """tree-sitter-kotlin parsed this for ever."""
    lines = ["\\", ".B bold", "{", "é", "def f(x):", "*/"] * 40
    assert [(section.start, section.end) for section in code(lines, "kotlin").sections] == [(0, len(lines))]
