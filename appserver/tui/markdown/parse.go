package markdown

import (
	"bytes"
	"strings"

	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/parser"
	"github.com/yuin/goldmark/text"
	"github.com/yuin/goldmark/util"
)

// Limits on what is parsed as Markdown, for the parser is not linear on every
// input. Each is far beyond what people and models write.
const (
	maxSource  = 1 << 20 // bytes of a document; the rest is plain text
	maxMarkers = 24      // quote and list markers at the start of one line
	maxIndent  = 96      // spaces before a marker: a list can nest a level each two
	maxDepth   = 16      // containers that are indented; deeper ones are drawn flush
	maxCells   = 20_000  // of a table
	maxColumns = 64

	// inlineBudget is how many bytes the inline parsers may look at per block.
	// Each call may read to the block's end, so it is charged with what is left
	// of the block. A paragraph of 4 KB may hold about two thousand marks.
	inlineBudget = 4 << 20
)

var budgetKey = parser.NewContextKey()

// budget counts what inline parsing of one block has cost.
type budget struct {
	block ast.Node
	spent int
}

// frugal stops an inline parser when the block's budget is spent: the rest of the
// block is text.
type frugal struct{ parser.InlineParser }

func (f frugal) Parse(parent ast.Node, block text.Reader, pc parser.Context) ast.Node {
	b, _ := pc.Get(budgetKey).(*budget)
	if b == nil {
		b = new(budget)
		pc.Set(budgetKey, b)
	}
	if b.block != parent {
		b.block, b.spent = parent, 0
	}
	if b.spent += 64 + left(parent, block); b.spent > inlineBudget {
		return nil
	}
	return f.InlineParser.Parse(parent, block, pc)
}

// left is how many bytes of the block are still to be read.
func left(parent ast.Node, block text.Reader) int {
	lines := parent.Lines()
	_, at := block.Position()
	if lines == nil || lines.Len() == 0 {
		return 0
	}
	return max(0, lines.At(lines.Len()-1).Stop-at.Start)
}

// CloseBlock passes on what some inline parsers need.
func (f frugal) CloseBlock(parent ast.Node, block text.Reader, pc parser.Context) {
	if c, ok := f.InlineParser.(parser.CloseBlocker); ok {
		c.CloseBlock(parent, block, pc)
	}
}

// table makes tables of paragraphs that are not absurd: every row is filled up
// to the header's columns, so a wide header over many short rows would multiply.
type table struct{ parser.ParagraphTransformer }

func (t table) Transform(node *ast.Paragraph, r text.Reader, pc parser.Context) {
	widest := 0
	lines := node.Lines()
	for i := range lines.Len() {
		seg := lines.At(i)
		widest = max(widest, 1+bytes.Count(seg.Value(r.Source()), []byte("|")))
	}
	if widest < 2 || widest > maxColumns || widest*lines.Len() > maxCells {
		return
	}
	t.ParagraphTransformer.Transform(node, r, pc)
}

var markdown = parser.NewParser(
	parser.WithBlockParsers(parser.DefaultBlockParsers()...),
	parser.WithInlineParsers(
		util.Prioritized(frugal{parser.NewCodeSpanParser()}, 100),
		util.Prioritized(frugal{parser.NewLinkParser()}, 200),
		util.Prioritized(frugal{parser.NewAutoLinkParser()}, 300),
		util.Prioritized(frugal{parser.NewRawHTMLParser()}, 400),
		util.Prioritized(frugal{parser.NewEmphasisParser()}, 500),
		util.Prioritized(frugal{extension.NewStrikethroughParser()}, 500),
		util.Prioritized(frugal{extension.NewTaskCheckBoxParser()}, 0),
	),
	parser.WithParagraphTransformers(util.Prioritized(table{extension.NewTableParagraphTransformer()}, 200)),
)

// parse reads guarded source.
func parse(src []byte) ast.Node { return markdown.Parse(text.NewReader(src)) }

// guard keeps one line from opening containers without end: a marker beyond the
// limit is escaped, an indentation beyond it is cut where a marker follows.
func guard(line string) string {
	if len(line) <= maxMarkers {
		return line
	}
	markers, indent := 0, 0
	for i := 0; i < len(line); {
		if line[i] == ' ' {
			i++
			if indent++; indent > maxIndent {
				rest := strings.TrimLeft(line[i:], " ")
				if marker(rest) > 0 {
					return line[:i] + rest
				}
				return line
			}
			continue
		}
		n := marker(line[i:])
		if n == 0 {
			return line
		}
		if markers++; markers > maxMarkers {
			return line[:i+n-1] + `\` + line[i+n-1:]
		}
		i += n
	}
	return line
}

// marker is how long the quote or list marker is that s begins with, 0 for none.
func marker(s string) int {
	n := 0
	for n < len(s) && n < 9 && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	switch {
	case n == len(s):
		return 0
	case n > 0 && s[n] != '.' && s[n] != ')':
		return 0
	case n == 0 && s[0] == '>':
		return 1
	case n == 0 && s[0] != '-' && s[0] != '*' && s[0] != '+':
		return 0
	}
	if n++; n < len(s) && s[n] != ' ' {
		return 0
	}
	return n
}
