//go:build !unix

package appserver

import (
	"os"

	"towline/appserver/handover"
)

func duplicate(*os.File) (*os.File, error) { return nil, handover.ErrUnsupported }
