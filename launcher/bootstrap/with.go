package bootstrap

// With is the report with other options: one that was kept on disk has lost what
// to call the host, and whom to tell about progress.
func (r Report) With(o Options) Report {
	r.o = o
	return r
}
