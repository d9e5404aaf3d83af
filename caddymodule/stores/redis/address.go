package redis

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// socketPrefix begins the address of a unix socket, as elsewhere in Caddy.
const socketPrefix = "unix/"

func isSocket(address string) bool { return strings.HasPrefix(address, socketPrefix) }

// checkAddress reports what is wrong with an address. The error does not repeat it, because it could be a URL with a
// password in it.
func checkAddress(address string) error {
	if strings.Contains(address, "://") {
		return errors.New("it is a URL: use host:port, and the options username, password, database and tls")
	}
	if isSocket(address) {
		if !strings.HasPrefix(address, socketPrefix+"/") {
			return errors.New("the path of a unix socket must be absolute, such as unix//run/redis.sock")
		}
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || !isHost(host) {
		return errors.New("it is not host:port, such as redis.internal:6379, or a unix socket, such as unix//run/redis.sock")
	}
	if number, err := strconv.ParseUint(port, 10, 16); err != nil || number == 0 {
		return errors.New("the port must be a number from 1 to 65535")
	}
	return nil
}

func isHost(host string) bool {
	if address, _, _ := strings.Cut(host, "%"); net.ParseIP(address) != nil { // with the zone of an IPv6 address
		return true
	}
	if host == "" || strings.Contains(host, ":") {
		return false
	}
	// A name in a network of containers can have an underscore in it, which no rule for domain names permits.
	_, err := idna.Lookup.ToASCII(strings.ReplaceAll(host, "_", "-"))
	return err == nil
}

func repeated(addresses []string) bool {
	sorted := slices.Sorted(slices.Values(addresses))
	return len(slices.Compact(sorted)) != len(addresses)
}
