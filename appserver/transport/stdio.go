package transport

import (
	"io"

	"towline/appserver/rpc"
)

// Stdio makes a Stream of a pair of standard streams, one message a line.
// Closing the stream closes in and out when they can be closed.
func Stdio(in io.Reader, out io.Writer) rpc.Stream { return rpc.NewLines(nil) }
