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

# The end of our input is the end of the program, politely first, with all it
# started; and so is too long a silence. What watches is a program of its own: a
# shell that waits for one thing and is signalled about another may lose either.
# shellcheck disable=SC2016 # expanded there
tl_watcher='
child=$1 main=$2 silent=$3
leave() {
	kill -0 "$main" || exit # the number of the program may be another one'"'"'s by now
	kill -TERM -"$child" || kill -TERM "$child"
	n=0
	while kill -0 "$child" && [ "$n" -lt 10 ]; do
		n=$((n + 1))
		sleep 0.2 || sleep 1
	done
	kill -9 -"$child" || kill -9 "$child"
}
timer() {
	(sleep "$silent" && leave) </dev/null &
	timer=$!
}
timer
while read -r beat; do
	kill -9 "$timer"
	timer
done
leave
'
(apart sh -c "$tl_watcher" sh "$tl_child" $$ "$tl_silent") <&3 3<&- >/dev/null 2>&1 &
tl_watch=$!
exec 3<&-
wait "$tl_child"
tl_r=$?
{ stop "$tl_watch" && wait "$tl_watch"; } 2>/dev/null
exit "$tl_r"
