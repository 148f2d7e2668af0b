package account

import "golang.org/x/sys/windows"

// Why a port cannot be bound. Hyper-V reserves ranges, which looks like a missing
// permission.
var (
	errInUse    error = windows.WSAEADDRINUSE
	errReserved error = windows.WSAEACCES
)
