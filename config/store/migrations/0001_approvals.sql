-- Times are Unix milliseconds. JSON columns hold what came over the wire.
CREATE TABLE approvals (
	id         TEXT PRIMARY KEY,
	identity   TEXT NOT NULL,          -- what makes two deliveries the same question
	thread_id  TEXT NOT NULL,
	turn_id    TEXT NOT NULL,
	item_id    TEXT NOT NULL,
	request_id TEXT NOT NULL,          -- JSON, as on the wire
	method     TEXT NOT NULL,
	params     TEXT NOT NULL,          -- JSON
	item       TEXT,                   -- JSON
	state      TEXT NOT NULL,
	opened_at  INTEGER NOT NULL,
	closed_at  INTEGER NOT NULL,       -- 0 while open
	answered_by TEXT,                  -- JSON
	result     TEXT                    -- JSON
) STRICT;
CREATE INDEX approvals_by_state ON approvals (state, closed_at);
CREATE INDEX approvals_by_thread ON approvals (thread_id, opened_at);

-- Where each principal was when it left.
CREATE TABLE last_thread (
	principal TEXT PRIMARY KEY,
	thread_id TEXT NOT NULL,
	at        INTEGER NOT NULL
) STRICT;
CREATE INDEX last_thread_by_thread ON last_thread (thread_id);
