package sqldbtest

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// crashEnv marks a child process of Crash and carries the database's URL to it.
const crashEnv = "KNOCK_TEST_CRASH_URL"

// CrashURL is the database that this process is to write to when it is a child of Crash, else "". Such a process writes
// until it is killed, telling Ack of everything that was acknowledged to it.
func CrashURL() string { return os.Getenv(crashEnv) }

// Ack tells the parent that the operation number n was acknowledged with position pos. One write is one line: lines of
// several goroutines do not mix.
func Ack(n, pos int64) { fmt.Fprintf(os.Stdout, "ack %d %d\n", n, pos) }

// Acked is what a child was told before it was killed.
type Acked struct{ N, Pos int64 }

// Crash runs the calling test again in a child process, which finds url in CrashURL, kills it with SIGKILL after a
// random number of acknowledgements between 1 and most, and returns these in the order in which they came. Whether they
// are in the database is for the caller to see.
func Crash(t *testing.T, url string, most int) []Acked {
	t.Helper()
	test, _, _ := strings.Cut(t.Name(), "/")
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), crashEnv+"="+url)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	var acked []Acked
	enough := 1 + rand.IntN(most)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		a, ok := parseAck(lines.Text())
		if !ok {
			continue
		}
		acked = append(acked, a)
		if len(acked) >= enough && !killed {
			killed = true
			time.Sleep(rand.N(3 * time.Millisecond)) // anywhere in the next transaction
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); !killed {
		t.Fatalf("the child ended by itself after %d acknowledgements: %v", len(acked), err)
	}
	return acked
}

func parseAck(line string) (a Acked, ok bool) {
	f := strings.Fields(line)
	if len(f) != 3 || f[0] != "ack" {
		return a, false
	}
	n, err1 := strconv.ParseInt(f[1], 10, 64)
	pos, err2 := strconv.ParseInt(f[2], 10, 64)
	return Acked{n, pos}, err1 == nil && err2 == nil
}
