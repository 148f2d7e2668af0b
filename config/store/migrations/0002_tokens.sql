-- Access tokens. A token is an identity; what proves it are its secrets, of which
-- a rotation makes a new one. No secret is here, only the SHA-256 of each.
CREATE TABLE tokens (
	id         TEXT PRIMARY KEY,
	name       TEXT NOT NULL,
	role       TEXT NOT NULL,
	scope      TEXT NOT NULL,          -- JSON, [] for all that the role allows
	networks   TEXT NOT NULL,          -- JSON, [] for any
	created_at INTEGER NOT NULL,
	created_by TEXT NOT NULL,          -- JSON
	issued_at  INTEGER NOT NULL,       -- when expires_at was decided
	expires_at INTEGER NOT NULL,       -- 0 never
	revoked_at INTEGER NOT NULL,       -- 0 not
	revoked_by TEXT NOT NULL,          -- JSON, '' when not
	used_at    INTEGER NOT NULL,       -- 0 never
	used_from  TEXT NOT NULL,
	uses       INTEGER NOT NULL
) STRICT;
CREATE INDEX tokens_by_name ON tokens (name);

CREATE TABLE token_secrets (
	token_id   TEXT NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
	n          INTEGER NOT NULL,       -- 1 and up; the highest is the current one
	hash       BLOB NOT NULL,
	created_at INTEGER NOT NULL,
	ends_at    INTEGER NOT NULL,       -- 0 with the token
	used_at    INTEGER NOT NULL,
	uses       INTEGER NOT NULL,
	PRIMARY KEY (token_id, n)
) STRICT;
