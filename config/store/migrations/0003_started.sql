-- Threads that a principal with a scope has started: within its reach for good.
CREATE TABLE started (
	principal TEXT NOT NULL,
	thread_id TEXT NOT NULL,
	at        INTEGER NOT NULL,
	PRIMARY KEY (principal, thread_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX started_by_time ON started (at);
CREATE INDEX started_by_thread ON started (thread_id);
