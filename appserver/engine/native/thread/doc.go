// Package thread keeps conversations on disk: one append-only file per thread,
// readable after a crash at any byte. It knows nothing of connections or models.
//
// # File format
//
// A thread is the file <id>.jsonl in the store's directory (0700, files 0600).
// Each line is one JSON object whose first member is "type", followed by "at"
// (Unix milliseconds). Lines are only ever appended, each append is synced
// before it is acknowledged, and the last state wins:
//
//	thread    {"thread":Meta}                   the first line, once
//	settings  {"settings":Settings}             what later turns run with
//	turn      {"turnId":ID}                     a turn began
//	item      {"turnId":ID,"item":ThreadItem}   an item was completed
//	input     {"input":ResponsesItem}           the model's side of the history
//	history   {"history":[ResponsesItem…]}      replaces all input before it
//	usage     {"usage":ThreadTokenUsage}
//	end       {"turnId":ID,"status":S,"error":TurnError?,"cut":bool?}
//	name      {"name":S}                        "" removes the name
//	archived  {"archived":bool}
//	queue     {"queue":[Queued…]}               messages waiting for the thread to be idle
//	unread    {"unread":{"revision":N,"turnId":S?}}
//
// A line that is not such an object is skipped. A last line without its newline
// is what a crash leaves: it counts when it is complete, and is cut off or
// completed when the thread is next opened for writing. A turn without its end
// was interrupted, and cut: its process ended before it did.
//
// One process writes a thread at a time: the writer holds flock(2) on the file.
// Reading needs no lock.
//
// index.json in the same directory is a cache of the heads of all threads; it
// can be deleted at any time.
//
// Start with [Open].
package thread
