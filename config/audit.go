package config

import "cmp"

// What happens while the audit log cannot be written: actions are refused, or go
// on, with an alarm and the entries kept until it can.
const (
	AuditRefuse   = "refuse"
	AuditContinue = "continue"
)

// defaultAuditMB is some hundred thousand entries.
const defaultAuditMB = 64

// Audit says how the log of who did what is kept.
type Audit struct {
	// MaxMB is the size in MiB at which a new file is begun; 0 is 64.
	MaxMB int `toml:"max_mb"`
	// KeepFiles is how many full files stay; 0 keeps all.
	KeepFiles int `toml:"keep_files"`
	// OnFailure is AuditRefuse or AuditContinue; empty is AuditContinue.
	OnFailure string `toml:"on_failure"`
}

// MaxBytes is the size at which a new file is begun.
func (a Audit) MaxBytes() int64 { return int64(cmp.Or(a.MaxMB, defaultAuditMB)) << 20 }

func (a Audit) validate(bad func(key, format string, args ...any)) {
	switch a.OnFailure {
	case "", AuditRefuse, AuditContinue:
	default:
		bad("audit.on_failure", "%q is none of %s, %s", a.OnFailure, AuditRefuse, AuditContinue)
	}
	if a.MaxMB < 0 || a.MaxMB > 1<<20 {
		bad("audit.max_mb", "%d is no size", a.MaxMB)
	}
	if a.KeepFiles < 0 {
		bad("audit.keep_files", "%d is no number of files; 0 keeps all", a.KeepFiles)
	}
}
