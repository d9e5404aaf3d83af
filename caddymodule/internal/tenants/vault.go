package tenants

import (
	"sync"

	"github.com/tokenproxy/caddy-token-proxy/caddymodule/internal/token"
)

// vaultCapacity bounds the tenants that the vault remembers.
const vaultCapacity = 10_000

// Vault returns what remembers the tenants of credentials that no configuration has any more. It is apart from the vault of other
// sources, because one removed credential can have more tenants than it has room for.
var Vault = sync.OnceValues(func() (*token.Vault, error) { return token.NewVault(vaultCapacity) })
