// Package apart runs tests in processes of their own.
package apart

import (
	"flag"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// variable names the test that a process of its own runs.
const variable = "TEST_APART"

// Run runs the calling test in a process of its own, beside other tests, and reports whether it has: the test must return
// then. Caddy has one configuration per process, so that two tests that boot it cannot share a process. A test that mostly
// waits calls Run first, so that others go on meanwhile, also those that are not parallel:
//
//	if apart.Run(t) {
//		return
//	}
//
// In the process of its own, where Run returns false, the test is not parallel, and can set the environment.
func Run(t *testing.T) bool {
	t.Helper()
	if os.Getenv(variable) == t.Name() {
		return false
	}
	wait := start(t)
	t.Parallel() // waits for the tests that are not parallel
	out, err := wait()
	switch {
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case strings.Contains(out, "--- SKIP: "+t.Name()+" "):
		t.Skipf("%s", out)
	case !strings.Contains(out, "--- PASS: "+t.Name()+" "):
		t.Errorf("the process has not run the test:\n%s", out)
	default:
		t.Logf("%s", out)
	}
	return true
}

// start starts the process of the test as soon as few enough others run. The function that it returns waits for its end.
func start(t *testing.T) (wait func() (string, error)) {
	cmd := exec.CommandContext(t.Context(), os.Args[0], argsFor(t.Name())...)
	cmd.Env = append(os.Environ(), variable+"="+t.Name())
	var out []byte
	var err error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		places := places()
		places <- struct{}{}
		defer func() { <-places }()
		out, err = cmd.CombinedOutput()
	}()
	return func() (string, error) {
		<-ended
		return string(out), err
	}
}

// places bounds the number of processes like that of parallel tests.
var places = sync.OnceValue(func() chan struct{} {
	return make(chan struct{}, flag.Lookup("test.parallel").Value.(flag.Getter).Get().(int))
})

// argsFor returns the arguments of this process, but for one test.
func argsFor(name string) []string {
	pattern := "^" + regexp.QuoteMeta(name) + "$"
	if _, subtests, ok := strings.Cut(flag.Lookup("test.run").Value.String(), "/"); ok {
		pattern += "/" + subtests
	}
	args := append(os.Args[1:len(os.Args):len(os.Args)], "-test.run="+pattern, "-test.v=true", "-test.count=1", "-test.bench=")
	for _, output := range []string{"testlogfile", "coverprofile", "cpuprofile", "memprofile", "blockprofile", "mutexprofile", "trace"} {
		args = append(args, "-test."+output+"=") // belongs to this process
	}
	return args
}

// WaitTogether lets twice as many parallel tests run at a time as Go code can, unless the command line says how many. It is
// for a package whose parallel tests mostly wait. Its TestMain calls it after flag.Parse.
func WaitTogether() {
	set := false
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == "test.parallel" })
	if !set {
		_ = flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0)))
	}
}
