package custody

// syncDir has no counterpart here: renames are journaled.
func syncDir(string) error { return nil }
