package transport

import (
	"errors"
	"io"
	"sync"

	"towline/appserver/rpc"
)

// Stdio makes a Stream of a pair of standard streams, one message a line.
// Closing it closes in and out when they can be closed.
//
// A process cannot interrupt its own read of standard input. So that Read still
// honours its context and Close, a goroutine reads ahead of it; when in is such
// a file, that goroutine outlives the Stream until in delivers something or
// ends, or the process does.
func Stdio(in io.Reader, out io.Writer) rpc.Stream {
	pr, pw := io.Pipe()
	return rpc.NewLines(&stdio{in: in, out: out, pr: pr, pw: pw})
}

type stdio struct {
	in    io.Reader
	out   io.Writer
	pr    *io.PipeReader
	pw    *io.PipeWriter
	start sync.Once
}

func (s *stdio) Read(p []byte) (int, error) {
	s.start.Do(func() {
		go func() {
			_, err := io.Copy(s.pw, s.in)
			_ = s.pw.CloseWithError(err) // nil becomes io.EOF
		}()
	})
	return s.pr.Read(p)
}

func (s *stdio) Write(p []byte) (int, error) { return s.out.Write(p) }

func (s *stdio) Close() error {
	err := s.pr.Close()
	for _, end := range []any{s.in, s.out} {
		if c, ok := end.(io.Closer); ok {
			err = errors.Join(err, c.Close())
		}
	}
	return err
}
