# A Vault Agent that writes the files of two stores from a KV store, version 2. Each file has a template of its own. The
# agent writes a file beside the destination and renames it, so the proxy finds the old secret or the new one.
#
#	vault agent -config=vault-agent.hcl
#
# The agent and the proxy run as the same user. Otherwise set user and group, so that the proxy can read the files.
vault {
  address = "https://vault.example.com:8200"
}

auto_auth {
  method "kubernetes" {
    config = {
      role = "token-proxy"
    }
  }
}

template {
  destination          = "/run/stores/berlin/client_id"
  perms                = "0400"
  error_on_missing_key = true
  contents             = "{{ with secret \"secret/data/stores/berlin\" }}{{ .Data.data.client_id }}{{ end }}"
}

template {
  destination          = "/run/stores/berlin/client_secret"
  perms                = "0400"
  error_on_missing_key = true
  contents             = "{{ with secret \"secret/data/stores/berlin\" }}{{ .Data.data.client_secret }}{{ end }}"
}

template {
  destination          = "/run/stores/milan/client_id"
  perms                = "0400"
  error_on_missing_key = true
  contents             = "{{ with secret \"secret/data/stores/milan\" }}{{ .Data.data.client_id }}{{ end }}"
}

template {
  destination          = "/run/stores/milan/client_secret"
  perms                = "0400"
  error_on_missing_key = true
  contents             = "{{ with secret \"secret/data/stores/milan\" }}{{ .Data.data.client_secret }}{{ end }}"
}
