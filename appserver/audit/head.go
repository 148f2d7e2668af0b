package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"towline/config/osfile"
)

// end is the last entry of a chain: what audit.head holds, as the number, a space
// and the hash, at a fixed width so that it is written over in one piece.
type end struct {
	seq  int64
	hash string
}

const headWidth = 20 + 1 + len(zeroHash) + 1

// openHead opens the file at path, creating it, and reads what it holds: nil when
// it was not there. What is not an end in it is one that nobody can match.
func openHead(path string) (*os.File, *end, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|osfile.NoFollow, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open audit.head: %w", err)
	}
	was, err := readHead(f)
	if err != nil {
		_ = f.Close() // nothing was written
		return nil, nil, err
	}
	return f, was, nil
}

func readHead(f io.ReaderAt) (*end, error) {
	buf := make([]byte, headWidth)
	n, err := f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read audit.head: %w", err)
	}
	if n == 0 {
		return nil, nil
	}
	number, hash, _ := strings.Cut(strings.TrimSpace(string(buf[:n])), " ")
	seq, err := strconv.ParseInt(number, 10, 64)
	if err != nil || len(hash) != len(zeroHash) {
		return &end{seq: 1<<63 - 1, hash: "unreadable"}, nil
	}
	return &end{seq: seq, hash: hash}, nil
}

// writeHead says where the chain ends now. The entry is in the file before: a
// writer killed between the two leaves a head that is behind, which is no cut.
func (l *Log) writeHead() error {
	_, err := l.head.WriteAt(fmt.Appendf(nil, "%020d %s\n", l.seq, l.prev), 0)
	return err
}
