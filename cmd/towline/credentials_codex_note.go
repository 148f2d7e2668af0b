package main

import (
	"fmt"

	"towline/config"
)

// codexNote tells of a store that a plain `codex` does not look into: one login
// is shared only where both programs keep it in the same place. codexKind is
// Codex's own answer; Towline's file is not known to it.
func codexNote(c credentials) string {
	theirs := config.StoreFile
	switch {
	case c.policy.CodexStore() != "":
		theirs = c.policy.CodexStore()
	case c.codex.OwnStore != "":
		theirs = c.codex.OwnStore
	}
	switch {
	case theirs == c.kind:
		return ""
	case c.kind == config.StoreEncrypted:
		return "Codex cannot read the encrypted store: it has a login of its own, or none"
	case c.kind == config.StoreFile && theirs == config.StoreAuto, c.kind == config.StoreAuto && theirs == config.StoreFile:
		return fmt.Sprintf("Codex keeps its login in %q and Towline in %q: where there is a keyring they do not share one", theirs, c.kind)
	}
	return fmt.Sprintf("Codex keeps its login in %q and Towline in %q, so they do not share one; set cli_auth_credentials_store at the top level of Codex's config.toml, which both read", theirs, c.kind)
}
