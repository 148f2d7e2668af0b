// Package osfile holds what systems do differently about a file that is one
// user's and one writer's: who owns it, whether its mode says who may read it,
// how an open refuses a symbolic link, and the lock that ends with its holder.
package osfile

import "errors"

// ErrLocked: another writer holds the file.
var ErrLocked = errors.New("in use by another process")
