# Becomes the app-server's end of the channel. The caller sets tl_kind (towline,
# codex), tl_bin, tl_stdio (yes: a bare child, whatever else there is), tl_forget
# (yes: one that keeps its login in memory and leaves what is stored alone), tl_sock (a
# daemon's socket to try first, or nothing), tl_dir (where a private daemon's
# socket and log go, or nothing), tl_wait (tries of a fifth of a second until a
# daemon must answer), tl_envt; and defines known, which exports what the probe
# learned of where things are, and extra, which exports what is to be set above
# all else.
#
# After "go ws" or "go lines" the channel belongs to the program that follows.

say hello "$tl_uid"
[ -f "$tl_bin" ] && [ -x "$tl_bin" ] || fail missing "$tl_bin is not there any more, or cannot be run"
tl_path=$tl_path0
known
cd "$tl_home" 2>/dev/null || cd /

# environment: for what is about to be started. rc files take their time, so only
# then.
environment() {
	say stage 'login environment'
	capture "$tl_envt"
	[ -n "$tl_why" ] && say env.note "$(printf '%s\n' "$tl_why" | short 600)"
	tl_before=$tl_path
	load
	[ -n "$tl_env" ] || tl_path=$tl_before
	extra
	tl_lc0=${LC_ALL-}
}

# go HOW ARGUMENTS...: the last word of this script.
go() {
	unlock
	tl_how=$1
	shift
	restore
	say go "$tl_how"
	PATH=${tl_bin%/*}:$tl_path
	exec "$tl_bin" "$@"
}

# answers SOCKET: a server of ours accepts connections there.
answers() {
	socket "$1" && (restore && PATH=${tl_bin%/*}:$tl_path:$PATH && within 10 "$tl_bin" app-server proxy --sock "$1" >/dev/null 2>&1)
}

# alive SOCKET: the same, without asking it where the system can tell.
alive() { socket "$1" && listening "$1" && { [ -n "$tl_inode" ] || answers "$1"; }; }

if [ "$tl_kind" = towline ]; then
	for tl_s in "$tl_sock" "${TOWLINE_HOME:+$TOWLINE_HOME/run/towline.sock}" \
		"${XDG_RUNTIME_DIR:+$XDG_RUNTIME_DIR/towline/towline.sock}" \
		"${XDG_STATE_HOME:-$tl_home/.local/state}/towline/run/towline.sock"; do
		[ -n "$tl_s" ] && alive "$tl_s" && go ws app-server proxy --sock "$tl_s"
	done
	environment
	go ws app-server proxy --start
fi
if [ "$tl_stdio" = yes ]; then
	environment
	[ "$tl_forget" = yes ] && go lines -c 'cli_auth_credentials_store="ephemeral"' app-server
	go lines app-server
fi

join() { go ws app-server proxy --sock "$1"; }

tl_loaded=no
[ -n "$tl_sock" ] && answers "$tl_sock" && join "$tl_sock"

# bare WHY: no daemon can be had.
bare() {
	say bare "$(printf '%s\n' "$1" | short 600)"
	[ "$tl_loaded" = yes ] || environment
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

environment
tl_loaded=yes
[ -n "$(find "$tl_log" -prune -size +4096 2>/dev/null)" ] && mv -f "$tl_log" "$tl_log.old"
(
	PATH=${tl_bin%/*}:$tl_path
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
		stop "$tl_daemon"
		bare "the daemon did not answer: $(tail -n 3 "$tl_log" | short 400)"
	fi
	say wait 'for the daemon'
	nap 9>&-
done
say started "$tl_daemon"
join "$tl_sock"
