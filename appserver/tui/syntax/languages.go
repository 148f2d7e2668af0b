package syntax

import (
	"path"
	"strings"
	"sync"
)

// def is a language as it is written down below.
type def struct {
	names    string // as in code fences and file extensions; the first is its name
	keywords string
	types    string
	lang     Language
}

var (
	slashes = []string{"//"}
	hash    = []string{"#"}
	dashes  = []string{"--"}

	cComment = span{"/*", "*/", Comment, true, false}
	double   = span{`"`, `"`, String, false, true}
	single   = span{"'", "'", String, false, true}
	raw      = span{"`", "`", String, true, false}
	template = span{"`", "`", String, true, true}
	bare     = span{"'", "'", String, false, false}
)

const cWords = "break case const continue default do else enum extern for goto if inline register return sizeof static struct switch typedef union volatile while "

var defs = []def{
	{
		names:    "go golang",
		keywords: "break case chan const continue default defer else fallthrough for func go goto if import interface map package range return select struct switch type var nil true false iota",
		types:    "any bool byte comparable complex64 complex128 error float32 float64 int int8 int16 int32 int64 rune string uint uint8 uint16 uint32 uint64 uintptr",
		lang:     Language{comments: slashes, spans: []span{cComment, raw, double, single}, calls: true},
	},
	{
		names:    "python py pyi python3",
		keywords: "and as assert async await break case class continue def del elif else except finally for from global if import in is lambda match nonlocal not or pass raise return try while with yield None True False self",
		types:    "int float str bytes bool list dict set tuple object type",
		lang: Language{comments: hash, spans: []span{
			{`"""`, `"""`, String, true, true}, {"'''", "'''", String, true, true}, double, single,
		}, calls: true, capital: true, ident: "@"},
	},
	{
		names: "javascript js jsx mjs cjs typescript ts tsx",
		keywords: "abstract as async await break case catch class const continue debugger declare default delete do else enum export extends finally for from function get if implements import in instanceof interface keyof let namespace new of package private protected public readonly return satisfies set static super switch this throw try type typeof var void while with yield " +
			"true false null undefined",
		types: "any boolean never number object string symbol unknown bigint",
		lang:  Language{comments: slashes, spans: []span{cComment, template, double, single}, calls: true, capital: true, ident: "$"},
	},
	{
		names:    "rust rs",
		keywords: "as async await break const continue crate dyn else enum extern fn for if impl in let loop match mod move mut pub ref return self static struct super trait type union unsafe use where while true false",
		types:    "bool char f32 f64 i8 i16 i32 i64 i128 isize str u8 u16 u32 u64 u128 usize Self",
		lang:     Language{comments: slashes, spans: []span{cComment, {`"`, `"`, String, true, true}}, calls: true, capital: true, ident: "!"},
	},
	{
		names:    "c h cc cpp cxx c++ hpp hh objc m mm",
		keywords: cWords + "alignas alignof auto catch class concept consteval constexpr decltype delete explicit export final friend mutable namespace new noexcept nullptr operator override private protected public requires template this throw try typename using virtual true false NULL",
		types:    "bool char double float int long short signed unsigned void size_t ssize_t int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t wchar_t string vector",
		lang:     Language{comments: slashes, spans: []span{cComment, double, single}, calls: true, ident: "#"},
	},
	{
		names:    "java kotlin kt kts scala groovy gradle csharp cs swift dart",
		keywords: cWords + "abstract actor as async await base catch class companion data def extends extension fileprivate final finally foreach fun func get guard implements import in init instanceof interface internal is lateinit lazy let match namespace native new object open operator out override package params private protected protocol public readonly record ref sealed self set super suspend synchronized this throw throws trait transient try typealias using val var virtual when where with yield true false null nil",
		types:    "boolean bool byte char decimal double float int long object sbyte short string uint ulong ushort void",
		lang:     Language{comments: slashes, spans: []span{cComment, {`"""`, `"""`, String, true, false}, double, single}, calls: true, capital: true, ident: "@"},
	},
	{
		names:    "php",
		keywords: "abstract and array as break case catch class clone const continue declare default do echo else elseif enum extends final finally fn for foreach function global if implements include include_once instanceof interface match namespace new or print private protected public readonly require require_once return static switch throw trait try use var while xor yield true false null",
		types:    "bool float int iterable mixed never object string void",
		lang:     Language{comments: []string{"//", "#"}, spans: []span{cComment, double, single}, calls: true, dollar: true, fold: true},
	},
	{
		names:    "ruby rb rake gemfile",
		keywords: "alias and begin break case class def do else elsif end ensure false for if in module next nil not or redo rescue retry return self super then true undef unless until when while yield require require_relative attr_accessor attr_reader",
		lang:     Language{comments: hash, spans: []span{double, single}, calls: true, capital: true, ident: "@?"},
	},
	{
		names:    "bash sh shell zsh fish console shellsession bashrc profile",
		keywords: "case do done elif else esac export fi for function if in local readonly return select set shift source then trap unset until while alias exit eval exec",
		lang:     Language{comments: hash, spans: []span{double, bare}, dollar: true, ident: "-"},
	},
	{
		names:    "powershell ps1",
		keywords: "begin break catch class continue do else elseif end finally for foreach function if in param process return switch throw trap try until while",
		lang:     Language{comments: hash, spans: []span{{"<#", "#>", Comment, true, false}, double, bare}, dollar: true, fold: true, ident: "-"},
	},
	{
		names:    "sql mysql postgresql postgres sqlite psql",
		keywords: "add all alter and any as asc begin between by case cascade check column commit constraint create cross current_timestamp database default delete desc distinct drop else end exists explain false foreign from full function grant group having if in index inner insert into is join key left like limit not null offset on or order outer primary references replace returning revoke right rollback row select set table then transaction trigger true truncate union unique update using values view when where with",
		types:    "bigint bigserial blob boolean bytea char date decimal double float int integer interval json jsonb numeric real serial smallint text time timestamp timestamptz uuid varchar",
		lang:     Language{comments: dashes, spans: []span{cComment, {"'", "'", String, true, true}, double}, fold: true, calls: true},
	},
	{
		names:    "lua",
		keywords: "and break do else elseif end false for function goto if in local nil not or repeat return then true until while",
		lang:     Language{comments: dashes, spans: []span{{"--[[", "]]", Comment, true, false}, {"[[", "]]", String, true, false}, double, single}, calls: true},
	},
	{
		names:    "haskell hs elm",
		keywords: "case class data deriving do else if import in infix infixl infixr instance let module newtype of then type where",
		lang:     Language{comments: dashes, spans: []span{{"{-", "-}", Comment, true, false}, double}, capital: true, ident: "'"},
	},
	{
		names:    "elixir ex exs erlang erl",
		keywords: "after and case catch cond def defmodule defp defstruct defmacro do else end false fn for if import in nil not or quote raise receive require rescue true try unless unquote use when with",
		lang:     Language{comments: []string{"#", "%"}, spans: []span{{`"""`, `"""`, String, true, true}, double, single}, calls: true, capital: true, ident: "@?!"},
	},
	{
		names:    "zig",
		keywords: "align and anytype asm async await break catch comptime const continue defer else enum errdefer error export extern fn for if inline noalias or orelse packed pub resume return struct suspend switch test threadlocal try union unreachable usingnamespace var volatile while true false null undefined",
		types:    "bool f32 f64 i8 i16 i32 i64 isize u8 u16 u32 u64 usize void anyerror type",
		lang:     Language{comments: slashes, spans: []span{double, single}, calls: true, capital: true, ident: "@"},
	},
	{
		names:    "nix",
		keywords: "assert else false if in inherit let null or rec then true with",
		lang:     Language{comments: hash, spans: []span{cComment, {"''", "''", String, true, false}, double}, ident: "-'"},
	},
	{
		names:    "terraform tf hcl",
		keywords: "data else false for for_each if in locals module null output provider resource terraform true variable",
		lang:     Language{comments: []string{"#", "//"}, spans: []span{cComment, double}, keys: "=", calls: true, ident: "-"},
	},
	{
		names:    "protobuf proto graphql gql thrift",
		keywords: "enum extend extends fragment implements import input interface message mutation on oneof option optional package query repeated required reserved returns rpc scalar schema service stream subscription syntax type union true false",
		types:    "bool boolean bytes double fixed32 fixed64 float int int32 int64 sint32 sint64 string uint32 uint64 ID Int Float String Boolean",
		lang:     Language{comments: []string{"//", "#"}, spans: []span{cComment, double, single}},
	},
	{
		names: "json jsonc json5 jsonl ndjson",
		lang:  Language{comments: slashes, spans: []span{cComment, double}, keys: ":"},
		// words that are values
		keywords: "true false null",
	},
	{
		names:    "yaml yml",
		keywords: "true false null yes no on off",
		lang:     Language{comments: hash, spans: []span{double, bare}, keys: ":", ident: "-./"},
	},
	{
		names:    "toml ini cfg conf properties env dotenv editorconfig gitconfig service",
		keywords: "true false",
		lang:     Language{comments: []string{"#", ";"}, spans: []span{{`"""`, `"""`, String, true, true}, {"'''", "'''", String, true, false}, double, bare}, keys: "=", ident: "-."},
	},
	{
		names:    "dockerfile containerfile docker",
		keywords: "add arg cmd copy entrypoint env expose from healthcheck label maintainer onbuild run shell stopsignal user volume workdir as",
		lang:     Language{comments: hash, spans: []span{double, single}, fold: true, dollar: true, ident: "-"},
	},
	{
		names:    "makefile make mk gnumakefile justfile cmake",
		keywords: "define else endef endif export ifdef ifeq ifndef ifneq include override unexport phony if foreach function set add_executable add_library target_link_libraries project",
		lang:     Language{comments: hash, spans: []span{double, single}, dollar: true, keys: ":=", ident: "-.", fold: true},
	},
	{
		names:    "css scss less sass",
		keywords: "important media import keyframes supports from to charset include mixin extend",
		lang:     Language{comments: []string{"//"}, spans: []span{cComment, double, single}, keys: ":", ident: "-.#@", calls: true},
	},
	{
		names: "html htm xml svg xhtml vue svelte plist xaml",
		lang:  Language{spans: []span{{"<!--", "-->", Comment, true, false}, double, single}, markup: true},
	},
}

// files are names without an extension that say what they are.
var files = map[string]string{
	"go.mod": "go", "go.sum": "", "cmakelists.txt": "cmake", ".bashrc": "bash", ".profile": "bash", ".zshrc": "bash",
	".env": "env", ".gitconfig": "ini", ".editorconfig": "ini", "rakefile": "ruby",
}

// table is built when the first code is drawn.
var table = sync.OnceValue(func() map[string]*Language {
	t := make(map[string]*Language)
	for i := range defs {
		d := &defs[i]
		l := d.lang
		l.words = make(map[string]Kind)
		for _, w := range strings.Fields(d.keywords) {
			l.words[w] = Keyword
		}
		for _, w := range strings.Fields(d.types) {
			l.words[w] = Type
		}
		names := strings.Fields(d.names)
		l.Name = names[0]
		for _, n := range names {
			t[n] = &l
		}
	}
	return t
})

// Named finds a language by what a code fence calls it; nil if it is unknown.
func Named(name string) *Language {
	name, _, _ = strings.Cut(strings.TrimSpace(name), " ")
	name = strings.Trim(strings.ToLower(name), "{}.")
	name, _, _ = strings.Cut(name, ",")
	return table()[name]
}

// ForFile finds a language by a file's name; nil if it is unknown.
func ForFile(file string) *Language {
	base := strings.ToLower(path.Base(file))
	if n, ok := files[base]; ok {
		return table()[n]
	}
	if ext := path.Ext(base); len(ext) > 1 {
		return table()[ext[1:]]
	}
	return table()[base]
}
