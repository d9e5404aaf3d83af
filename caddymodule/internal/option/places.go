package option

import "strings"

// Place is a block of the Caddyfile, and the names of its options. An error may show only these names. Any other word could be
// a secret, because an operator may write `client_secret=…` or put the secret onto a line of its own.
type Place struct {
	name    string
	options []string
}

// NewPlace returns the place with this name and these options, between which there is space. Errors about other places do not
// suggest its options.
func NewPlace(name, options string) Place { return Place{name, strings.Fields(options)} }

// The places of the Caddyfile.
var (
	OfGlobal = NewPlace("the global option token_proxy", `credential share replay_memory`)

	OfCredential = NewPlace("a credential", `provider client_id client_secret api_hosts allow_plaintext refresh_margin
		fetch_timeout max_wait default_lifetime header prefetch share tenant transport`)

	OfTenant = NewPlace("tenant", `max new_rate keep`)

	OfTransport = NewPlace("transport of a credential", `ca server_name proxy dial_timeout tls_renegotiation`)

	OfOAuth2 = NewPlace("provider oauth2", `token_url issuer client_auth basic_encoding client_id_param client_secret_param
		signing_key signing_key_id signing_alg assertion_audience assertion_typ assertion_certificate assertion_claim
		client_assertion_file client_assertion_type client_certificate client_certificate_key dpop dpop_key dpop_alg
		grant scope scope_separator audience resource param json_param header method encoding response`)

	OfResponse = NewPlace("response of provider oauth2", `token token_type expires_in expires_at refresh_in default keep
		error retry retry_text retry_after`)

	OfOptoro = NewPlace("provider optoro", `token_url`)

	OfElasticPath = NewPlace("provider elastic_path", `token_url grant store`)

	OfShare = NewPlace("share", `store key group`)

	OfRedis = NewPlace("store redis", `address cluster username password database master_name sentinel_username
		sentinel_password tls`)

	OfRedisTLS = NewPlace("tls of store redis", `ca server_name client_certificate client_certificate_key`)

	OfHTTPSProxy = NewPlace("https_proxy", `tunnel clients`)

	// OfDirective has the subdirectives of reverse_proxy, too.
	OfDirective = NewPlace("the directive token_proxy", `client_authorization on_unauthorized rejected_status replay_buffer
		clients cross_site forwarded token_stub
		to dynamic lb_policy lb_retries lb_try_duration lb_try_interval lb_retry_match
		health_uri health_path health_upstream health_port health_headers health_method health_request_body health_interval
		health_timeout health_status health_body health_follow_redirects health_passes health_fails
		max_fails fail_duration unhealthy_request_count unhealthy_status unhealthy_latency
		flush_interval request_buffers response_buffers stream_buffer_size stream_timeout stream_close_delay
		proxy_status_name trusted_proxies header_up header_down method rewrite transport handle_response replace_status
		verbose_logs`)

	// OfHTTPTransport has the options of Caddy's HTTP transport.
	OfHTTPTransport = NewPlace("transport http of the directive", `read_buffer write_buffer read_timeout write_timeout
		max_response_header proxy_protocol forward_proxy_url network_proxy dial_timeout dial_fallback_delay
		response_header_timeout expect_continue_timeout resolvers tls tls_client_auth tls_insecure_skip_verify tls_curves
		tls_timeout tls_trusted_ca_certs tls_server_name tls_renegotiation tls_except_ports
		keepalive keepalive_interval keepalive_idle_conns keepalive_idle_conns_per_host versions compression
		max_conns_per_host tls_trust_pool local_address`)
)

// Places are the places whose options errors suggest.
var Places = []Place{OfGlobal, OfCredential, OfTenant, OfTransport, OfOAuth2, OfResponse, OfOptoro, OfElasticPath, OfShare, OfRedis,
	OfRedisTLS, OfHTTPSProxy, OfDirective, OfHTTPTransport}

// Name returns the name of the place.
func (p Place) Name() string { return p.name }

// Options returns the names of the place's options.
func (p Place) Options() []string { return p.options }
