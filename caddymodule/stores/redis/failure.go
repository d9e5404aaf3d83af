package redis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	goredis "github.com/redis/go-redis/v9"
)

// failed returns the error of a command. It repeats nothing that the server has sent, because a server can repeat what it
// was sent: "ERR unknown command 'AUTH', with args beginning with: …".
func failed(command string, err error) error {
	if err == nil {
		return nil
	}
	err = described(err)
	return explain(fmt.Errorf("redis: %s: %w", command, err), err)
}

// harmlessError is an error from before the password was sent.
type harmlessError struct{ error }

func (e harmlessError) Unwrap() error { return e.error }

func harmless(err error) error {
	if err == nil {
		return nil
	}
	return harmlessError{err}
}

// described returns an error that can be shown.
func described(err error) error {
	if e, ok := errors.AsType[harmlessError](err); ok {
		return e.error
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e
	}
	if e, ok := errors.AsType[*os.SyscallError](err); ok { // go-redis takes a net.OpError apart
		return e
	}
	for _, known := range []error{context.Canceled, context.DeadlineExceeded, os.ErrDeadlineExceeded, goredis.ErrPoolTimeout, goredis.ErrClosed, io.EOF, io.ErrUnexpectedEOF} {
		if errors.Is(err, known) {
			return known
		}
	}
	if errors.Is(err, goredis.Nil) { // only Sentinel gets this answer
		return errors.New("the name in master_name is not known")
	}
	if e, ok := errors.AsType[goredis.Error](err); ok {
		return errors.New(meaning(e.Error()))
	}
	return errors.New("what answers is not Redis: check the address, and whether the server wants tls")
}

// meanings are errors that Redis reports, by what they begin with.
var meanings = []struct{ begin, meaning string }{
	{"WRONGPASS", "the server does not accept username and password"},
	{"ERR invalid password", "the server does not accept the password"},
	{"NOAUTH", "the server wants a password"},
	{"NOPERM", "the ACL does not permit the user this command, or a key of this name"},
	{"OOM", "the server has no memory left (maxmemory)"},
	{"READONLY", "the server is a replica, which takes no writes"},
	{"LOADING", "the server is still loading its data"},
	{"MASTERDOWN", "the server is a replica that has lost its primary"},
	{"CLUSTERDOWN", "the cluster is down"},
	{"TRYAGAIN", "the cluster is moving the key"},
	{"MOVED", "the server belongs to a cluster: set the option cluster"},
	{"ASK", "the server belongs to a cluster: set the option cluster"},
	{"MISCONF", "the server cannot save its data, and takes no writes"},
	{"NOREPLICAS", "the server has too few replicas, and takes no writes"},
	{"BUSY", "the server is busy with a script"},
	{"WRONGTYPE", "the name is in use for something else"},
	{"DENIED", "the server is in protected mode"},
	{"ERR DB index", "the server has no database of this number"},
	{"ERR SELECT", "a cluster has the database 0 only"},
	{"ERR max number of clients", "the server has too many clients"},
	{"ERR This instance has cluster support disabled", "the server does not belong to a cluster"},
	{"ERR unknown command", "the server does not know a command: Redis 6.2 or later is needed"},
	{"ERR", "the server reports an error that is not shown, because it could repeat the password"},
}

// meaning returns what an error of the server stands for. The error of a command in a script begins with a dash, somewhere
// within the text.
func meaning(text string) string {
	for _, m := range meanings {
		if strings.HasPrefix(text, m.begin) || strings.Contains(text, "-"+m.begin+" ") {
			code, _, _ := strings.Cut(m.begin, " ")
			return code + ": " + m.meaning
		}
	}
	return "the server reports an error of a kind that is not known"
}
