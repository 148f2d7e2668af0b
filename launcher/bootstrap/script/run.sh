# Runs a program as the person would. The caller sets tl_bin, its arguments as "$@",
# tl_input (none, line, all), tl_envt, tl_silent (seconds without a word from the
# other side after which it is gone); and defines known and extra, as for open.sh.
#
# After "go run" the channel is the program's.

say hello "$tl_uid"
[ -f "$tl_bin" ] && [ -x "$tl_bin" ] || fail missing "$tl_bin is not there any more, or cannot be run"
tl_path=$tl_path0
known
cd "$tl_home" 2>/dev/null || cd /

say stage 'login environment'
capture "$tl_envt"
[ -n "$tl_why" ] && say env.note "$(printf '%s\n' "$tl_why" | short 600)"
tl_before=$tl_path
load
[ -n "$tl_env" ] || tl_path=$tl_before
extra
tl_lc0=${LC_ALL-}
restore

# become COMMAND...: as the person has it. Only ever in a shell of its own.
become() {
	PATH=${tl_bin%/*}:$tl_path
	exec "$@"
}

case $tl_input in
all)
	say go run
	become "$tl_bin" "$@"
	;;
line)
	say go run
	# read, echo and the pipe stay within this shell: no argument or file has it.
	IFS= read -r tl_line || exit 1
	echo "$tl_line" | (become "$tl_bin" "$@")
	exit $?
	;;
esac

exec 3<&0 </dev/null
say go run # before it: what the program says is not for us
(
	# shellcheck disable=SC2086 # empty or one word
	PATH=${tl_bin%/*}:$tl_path && exec $tl_setsid "$tl_bin" "$@"
) 3<&- 2>&1 &
tl_child=$!

# leave: the program and all it started end, politely first.
leave() {
	trap '' USR1 USR2 ALRM
	kill -TERM -"$tl_child" 2>/dev/null || kill -TERM "$tl_child" 2>/dev/null
	tl_n=0
	while kill -0 "$tl_child" 2>/dev/null && [ "$tl_n" -lt 10 ]; do
		tl_n=$((tl_n + 1))
		nap
	done
	stop "$tl_child"
}

# The end of our input is the end of the program, and so is too long a silence.
# What watches is told apart by signal, because only the main shell may decide:
# the number of a program that has ended may be another's by then.
tl_left=$tl_silent
trap 'tl_got=yes; tl_left=$tl_silent' USR1
trap 'tl_got=yes; leave' USR2
trap 'tl_got=yes; tl_left=$((tl_left - 5)); [ "$tl_left" -gt 0 ] || leave' ALRM
(
	exec <&3 3<&- >/dev/null 2>&1
	while read -r tl_beat; do kill -USR1 $$; done
	while kill -USR2 $$; do sleep 1; done # until it is heard
) &
tl_reader=$!
(
	exec 3<&- >/dev/null 2>&1
	while sleep 5; do kill -ALRM $$ || exit; done
) &
tl_ticker=$!
exec 3<&-
while :; do
	tl_got=
	wait "$tl_child"
	tl_r=$?
	# A signal of those above ends the wait early, with a status of its own.
	[ "$tl_r" -gt 128 ] && [ -n "$tl_got" ] || break
done
trap '' USR1 USR2 ALRM
kill -9 "$tl_reader" "$tl_ticker" 2>/dev/null
exit "$tl_r"
