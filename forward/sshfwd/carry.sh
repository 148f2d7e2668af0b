# Makes its standard streams a connection to a port of this machine's loopback, or
# says how that could be done. Plain POSIX sh. The caller sets tl_m, the marker the
# one answer begins with; tl_do (which, hold, or the name of a way); tl_bin, the path
# of towline or nothing; tl_port; and for tests tl_only, the folders of programs.
#
# After "go" the channel is the program's. All of them end with their input, a while
# later at the most, so that nothing stays when a link is cut.

if [ -n "${tl_only-}" ]; then
PATH=$tl_only
else
PATH=${PATH:+$PATH:}/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin:/opt/homebrew/bin:/run/current-system/sw/bin
fi
export PATH
LC_ALL=C
export LC_ALL
say() { printf '%s %s\n' "$tl_m" "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }
ours() { [ -n "$tl_bin" ] && [ -f "$tl_bin" ] && [ -x "$tl_bin" ]; }
go() { say go; exec "$@"; }

tl_nc=
for tl_t in nc ncat netcat; do
[ -z "$tl_nc" ] && have "$tl_t" && tl_nc=$tl_t
done
[ -z "$tl_nc" ] && have busybox && busybox nc --help >/dev/null 2>&1 && tl_nc='busybox nc'

tl_up_py='
import os,socket,sys,threading,time
s=socket.create_connection(("127.0.0.1",int(sys.argv[1])),5)
s.settimeout(None)
def up():
    try:
        while True:
            d=os.read(0,32768)
            if not d: break
            s.sendall(d)
        s.shutdown(socket.SHUT_WR)
    except OSError: pass
    time.sleep(30)
    os._exit(0)
threading.Thread(target=up,daemon=True).start()
try:
    while True:
        d=s.recv(32768)
        if not d: break
        while d: d=d[os.write(1,d):]
except OSError: pass
os._exit(0)
'
tl_hold_py='
import os,select,socket,sys
s=socket.socket()
s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)
s.bind(("127.0.0.1",int(sys.argv[1])))
s.listen(8)
print(sys.argv[2]+" go",flush=True)
while True:
    r,_,_=select.select([s,0],[],[],600)
    if not r or 0 in r and not os.read(0,512): break
    if s in r: s.accept()[0].close()
'
tl_up_pl='
use IO::Socket::INET;
my $s=IO::Socket::INET->new(PeerAddr=>"127.0.0.1",PeerPort=>$ARGV[0],Timeout=>5) or exit 1;
my $m=$$; my $b; my $p=fork; exit 1 unless defined $p;
sub put { my ($f,$d)=@_; my $o=0; while($o<length $d){ my $n=syswrite($f,$d,length($d)-$o,$o); return 0 unless $n; $o+=$n } 1 }
unless($p){
    while(sysread(STDIN,$b,32768)){ last unless put($s,$b) }
    shutdown($s,1); close STDOUT; sleep 30; kill "TERM",$m if getppid==$m; exit 0
}
while(sysread($s,$b,32768)){ last unless put(\*STDOUT,$b) }
kill "TERM",$p; waitpid $p,0;
'
tl_hold_pl='
use IO::Socket::INET; use IO::Select; $|=1;
my $s=IO::Socket::INET->new(LocalAddr=>"127.0.0.1",LocalPort=>$ARGV[0],Listen=>8,ReuseAddr=>1) or die "$@\n";
print "$ARGV[1] go\n";
my $w=IO::Select->new($s,\*STDIN); my $b;
while(my @r=$w->can_read(600)){
    for my $f (@r){
        if($f==$s){ my $c=$s->accept; close $c if $c }
        else { exit 0 unless sysread(STDIN,$b,512) }
    }
}
'
# The shell itself ends when the other side has said all: whoever waits for our
# standard output must see its end then.
tl_up_bash='
exec 3<>"/dev/tcp/127.0.0.1/$1" 4<&0 || exit 1
main=$$
( cat <&4 >&3; exec 3>&- 4<&-; sleep 30; kill -TERM "$main" ) >/dev/null 2>&1 &
up=$!
cat <&3
kill -9 "$up" 2>/dev/null
'

case $tl_do in
which)
tl_w=
ours && tl_w="$tl_w towline"
[ -n "$tl_nc" ] && tl_w="$tl_w nc"
for tl_t in bash socat python3 perl; do
have "$tl_t" && tl_w="$tl_w $tl_t"
done
say go "$tl_w"
;;
towline)
ours || { say no 'it is not there any more'; exit 1; }
go "$tl_bin" app-server dial "127.0.0.1:$tl_port"
;;
nc)
# shellcheck disable=SC2086 # one word or two
go $tl_nc 127.0.0.1 "$tl_port"
;;
bash) go bash -c "$tl_up_bash" bash "$tl_port" ;;
socat) go socat -t 30 - "TCP4:127.0.0.1:$tl_port" ;;
python3) go python3 -c "$tl_up_py" "$tl_port" ;;
perl) go perl -e "$tl_up_pl" "$tl_port" ;;
hold)
# Whichever can: one that cannot says why on standard error, and the next is tried.
if ours && "$tl_bin" app-server hold --mark "$tl_m" "127.0.0.1:$tl_port"; then exit 0; fi
if have python3 && python3 -c "$tl_hold_py" "$tl_port" "$tl_m"; then exit 0; fi
if have perl && perl -e "$tl_hold_pl" "$tl_port" "$tl_m"; then exit 0; fi
say no 'nothing there can hold the port'
;;
esac
