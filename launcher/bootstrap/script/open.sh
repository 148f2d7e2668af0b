# Becomes the app-server's end of the channel. The caller sets tl_kind (towline,
# codex), tl_bin, tl_stdio (yes: a bare child, whatever else there is), tl_sock (a
# Codex daemon's socket to try first, or nothing), tl_dir (where a private daemon's
# socket and log go, or nothing), tl_wait (tries of a fifth of a second until a
# daemon must answer), tl_load (yes: take the login environment first), tl_envt;
# and defines extra, which exports what is to be set above all else.
#
# After "go ws" or "go lines" the channel belongs to the program that follows.

say hello "$tl_uid"
[ -f "$tl_bin" ] && [ -x "$tl_bin" ] || fail missing "$tl_bin cannot be run"

tl_env=
if [ "$tl_load" = yes ]; then
	say stage environment
	capture "$tl_envt"
	[ -n "$tl_why" ] && say env.note "$(printf '%s\n' "$tl_why" | short 600)"
fi
load
extra
tl_given=${tl_bin%/*}:$tl_path
cd "$tl_home" 2>/dev/null || cd /

# go HOW ARGUMENTS...: the last word of this script.
go() {
	unlock
	tl_how=$1
	shift
	say go "$tl_how"
	PATH=$tl_given
	exec "$tl_bin" "$@"
}

if [ "$tl_kind" = towline ]; then
	go ws app-server proxy --start
fi
[ "$tl_stdio" = yes ] && go lines app-server

# answers SOCKET: a server of ours accepts connections there.
answers() {
	socket "$1" && (PATH=$tl_given; within 10 "$tl_bin" app-server proxy --sock "$1" >/dev/null 2>&1)
}

join() { go ws app-server proxy --sock "$1"; }

[ -n "$tl_sock" ] && answers "$tl_sock" && join "$tl_sock"

# bare WHY: no daemon can be had.
bare() {
	say bare "$(printf '%s\n' "$1" | short 600)"
	go lines app-server
}

[ -n "$tl_dir" ] || bare 'there is no private folder for its socket'
tl_said=$(mkdir -p "$tl_dir" 2>&1) || bare "$tl_said"
chmod 700 "$tl_dir" 2>/dev/null
mine "$tl_dir" || bare "$tl_dir is open to others"
tl_sock=$tl_dir/codex-$tl_host.sock
tl_log=$tl_dir/codex-$tl_host.log

answers "$tl_sock" && join "$tl_sock"
say stage daemon
waiting() { say wait 'another connection starts the daemon'; }
lock "$tl_dir/codex-$tl_host.lock" "$tl_wait" || bare "$tl_dir/codex-$tl_host.lock is held by somebody who does not let go"
answers "$tl_sock" && join "$tl_sock" # whoever held the lock has started it

[ -n "$(find "$tl_log" -prune -size +4096 2>/dev/null)" ] && mv -f "$tl_log" "$tl_log.old"
(
	PATH=$tl_given
	if [ -n "$tl_setsid" ]; then
		exec "$tl_setsid" "$tl_bin" app-server --listen "unix://$tl_sock"
	fi
	trap '' HUP
	exec "$tl_bin" app-server --listen "unix://$tl_sock"
) </dev/null >>"$tl_log" 2>&1 9>&- &
tl_daemon=$!
tl_n=0
while ! answers "$tl_sock"; do
	tl_n=$((tl_n + 1))
	if ! kill -0 "$tl_daemon" 2>/dev/null; then
		bare "the daemon ended: $(grep -v '^WARNING' "$tl_log" | tail -n 3 | short 400)"
	fi
	if [ "$tl_n" -gt "$tl_wait" ]; then
		end "$tl_daemon"
		bare "the daemon did not answer: $(tail -n 3 "$tl_log" | short 400)"
	fi
	say wait 'for the daemon'
	nap 9>&-
done
say started "$tl_daemon"
join "$tl_sock"
