//go:build !unix

package supervisor

import "errors"

var errUnsupported = errors.New("a daemon in the background is not supported on this system")

func hold(string) (release func(), err error) { return nil, errUnsupported }

func holder(string) (pid int, held bool) { return 0, false }
