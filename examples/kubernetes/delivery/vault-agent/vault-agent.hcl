# Writes the files of the sidecar from a KV store, version 2. The agent writes a file beside the destination and renames it,
# so the proxy finds the old secret or the new one. It reads the entry every minute (by default, every five).
vault {
  address = "https://vault.example.com:8200"
}

auto_auth {
  method "kubernetes" {
    config = {
      role       = "token-proxy"
      token_path = "/run/secrets/vault-agent/token"
    }
  }
}

template_config {
  static_secret_render_interval = "1m"
}

template {
  destination          = "/run/secrets/token-proxy/client-id"
  perms                = "0400"
  error_on_missing_key = true
  contents             = "{{ with secret \"secret/data/shop/token-proxy\" }}{{ .Data.data.client_id }}{{ end }}"
}

template {
  destination          = "/run/secrets/token-proxy/client-secret"
  perms                = "0400"
  error_on_missing_key = true
  contents             = "{{ with secret \"secret/data/shop/token-proxy\" }}{{ .Data.data.client_secret }}{{ end }}"
}
