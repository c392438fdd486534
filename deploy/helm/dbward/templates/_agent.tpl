{{/* Given (dict "root" $ "name" … "of" agent): dbward-agent.toml. */}}
{{- define "dbward.agent.toml" -}}
{{- $of := .of -}}
{{- $parsed := fromToml $of.config -}}
{{- if hasKey $parsed "Error" -}}
{{- fail (printf "agents.%s.config is not TOML: %s" .name $parsed.Error) -}}
{{- end -}}
{{- $taken := dict "agent_id" "the name of the pod" "drain_timeout_secs" "see drainSeconds" "server" "see serverUrl and token" "databases" "see databases" "probe_dir" "it is /tmp" "alive_file" "it is in /tmp" "ready_file" "it is in /tmp" -}}
{{- range $key, $why := $taken -}}
{{- if hasKey $parsed $key -}}
{{- fail (printf "agents.%s.config must not say %s: the chart does, %s" $.name $key $why) -}}
{{- end -}}
{{- end -}}
{{- if not $of.databases -}}
{{- fail (printf "agents.%s.databases names no database" .name) -}}
{{- end -}}
{{- if not (or $of.token.value $of.token.existingSecret) -}}
{{- fail (printf "agents.%s.token needs existingSecret" .name) -}}
{{- end -}}
{{- $url := $of.serverUrl -}}
{{- if not $url -}}
{{- if not .root.Values.server.enabled -}}
{{- fail (printf "agents.%s.serverUrl is needed where the server is not of this release" .name) -}}
{{- end -}}
{{- $url = printf "http://%s:%d" (include "dbward.server.name" .root) (int .root.Values.server.service.port) -}}
{{- end -}}
agent_id = "${DBWARD_POD_NAME}"
drain_timeout_secs = {{ int $of.drainSeconds }}
{{- if not (hasKey $parsed "startup_max_wait_secs") }}
startup_max_wait_secs = 0
{{- end }}
{{- with trim $of.config }}

{{ . }}
{{- end }}

[server]
url = {{ toJson $url }}
agent_token = "${DBWARD_AGENT_TOKEN}"
{{- range $i, $database := $of.databases }}

[databases.{{ $database.name }}.{{ $database.environment }}]
url = "${DBWARD_DATABASE_URL_{{ $i }}}"
{{- end }}
{{ end -}}

{{/* Given an agent: its secrets, by the variable that holds each, as JSON. */}}
{{- define "dbward.agent.secrets" -}}
{{- $secrets := dict "DBWARD_AGENT_TOKEN" .token -}}
{{- range $i, $database := .databases -}}
{{- $_ := set $secrets (printf "DBWARD_DATABASE_URL_%d" $i) $database.url -}}
{{- end -}}
{{- toJson $secrets -}}
{{- end -}}
