package session

// Size is a terminal's size in cells.
type Size struct{ Cols, Rows int }
