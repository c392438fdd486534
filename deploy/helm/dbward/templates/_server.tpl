{{/* What `server.config` says, as JSON; wrong TOML and what the chart writes itself are refused. */}}
{{- define "dbward.server.parsed" -}}
{{- $parsed := fromToml .Values.server.config -}}
{{- if hasKey $parsed "Error" -}}
{{- fail (printf "server.config is not TOML: %s" $parsed.Error) -}}
{{- end -}}
{{- $taken := dict "state_dir" "it is /data" "state" "see server.state" "result_storage" "see server.results" -}}
{{- if .Values.server.trustedProxies -}}
{{- $_ := set $taken "trusted_proxies" "see server.trustedProxies" -}}
{{- end -}}
{{- range $key, $why := $taken -}}
{{- if hasKey $parsed $key -}}
{{- fail (printf "server.config must not say %s: the chart does, %s" $key $why) -}}
{{- end -}}
{{- end -}}
{{- toJson $parsed -}}
{{- end -}}

{{/* dbward-server.toml. What stands outside of tables comes first: TOML knows no way back. */}}
{{- define "dbward.server.toml" -}}
{{- $_ := include "dbward.server.parsed" . -}}
{{- $server := .Values.server -}}
state_dir = "/data"
{{- with $server.trustedProxies }}
trusted_proxies = {{ toJson . }}
{{- end }}

{{ $server.config | trim }}
{{- if eq $server.state.backend "postgresql" }}

[state]
url = "${DBWARD_STATE_URL}"
{{- end }}

[result_storage]
max_persist_bytes = {{ int64 $server.results.maxPersistBytes }}
{{- $s3 := $server.results.s3 }}
{{- if eq $server.results.backend "s3" }}
backend = "s3"
bucket = {{ toJson $s3.bucket }}
prefix = {{ toJson $s3.prefix }}
{{- else }}
backend = "local"
{{- if eq $server.results.backend "shared" }}
root_dir = "/results"
{{- end }}
{{- end }}
{{- if include "dbward.server.usesS3" . }}
region = {{ toJson $s3.region }}
{{- with $s3.endpoint }}
endpoint = {{ toJson . }}
{{- end }}
path_style = {{ $s3.pathStyle }}
{{- if include "dbward.server.s3Keys" . }}
access_key_id = "${DBWARD_S3_ACCESS_KEY_ID}"
secret_access_key = "${DBWARD_S3_SECRET_ACCESS_KEY}"
{{- end }}
{{- end }}
{{ end -}}

{{/* "true" when S3 is called with keys rather than with the pods' own role. */}}
{{- define "dbward.server.s3Keys" -}}
{{- $s3 := .Values.server.results.s3 -}}
{{- if and (include "dbward.server.usesS3" .) (or $s3.accessKeyId.value $s3.accessKeyId.existingSecret) -}}true{{- end -}}
{{- end -}}

{{/* Whether it calls S3, for results or for backups. */}}
{{- define "dbward.server.usesS3" -}}
{{- $target := dig "backup" "target" "" (include "dbward.server.parsed" . | fromJson) -}}
{{- if or (eq .Values.server.results.backend "s3") (hasPrefix "s3://" $target) -}}true{{- end -}}
{{- end -}}

{{/* Whether the keys for S3 come from AWS by the role of the pod. With IAM roles for service accounts that is a call of STS, which is
HTTPS like S3; with EKS Pod Identity one of an address of the node. */}}
{{- define "dbward.server.roleOfPod" -}}
{{- if and (include "dbward.server.usesS3" .) (not .Values.server.results.s3.endpoint) (not (include "dbward.server.s3Keys" .)) -}}
true
{{- end -}}
{{- end -}}

{{/* The ports of what it calls by a URL that may be anywhere, as JSON: S3, and the OpenID provider with its keys. */}}
{{- define "dbward.server.webPorts" -}}
{{- $urls := list -}}
{{- if include "dbward.server.usesS3" . -}}
{{- $urls = append $urls (default "https://aws" .Values.server.results.s3.endpoint) -}}
{{- end -}}
{{- $oidc := dig "auth" "oidc" dict (include "dbward.server.parsed" . | fromJson) -}}
{{- range compact (list (coalesce $oidc.issuer_url $oidc.issuer) $oidc.jwks_uri) -}}
{{- $urls = append $urls . -}}
{{- end -}}
{{- $ports := list -}}
{{- range $urls -}}
{{- $ports = append $ports (include "dbward.port" . | int) -}}
{{- end -}}
{{- toJson (uniq $ports) -}}
{{- end -}}

{{/* The secrets that the server needs, by the variable that holds each, as JSON. */}}
{{- define "dbward.server.secrets" -}}
{{- $secrets := dict -}}
{{- if eq .Values.server.state.backend "postgresql" -}}
{{- $_ := set $secrets "DBWARD_STATE_URL" .Values.server.state.postgresql.url -}}
{{- $_ := set $secrets "DBWARD_KEY_SEED" .Values.server.state.postgresql.keySeed -}}
{{- end -}}
{{- if include "dbward.server.s3Keys" . -}}
{{- $_ := set $secrets "DBWARD_S3_ACCESS_KEY_ID" .Values.server.results.s3.accessKeyId -}}
{{- $_ := set $secrets "DBWARD_S3_SECRET_ACCESS_KEY" .Values.server.results.s3.secretAccessKey -}}
{{- end -}}
{{- toJson $secrets -}}
{{- end -}}

{{/* Seconds that running calls may take after SIGTERM. */}}
{{- define "dbward.server.drain" -}}
{{- $parsed := include "dbward.server.parsed" . | fromJson -}}
{{- dig "server" "graceful_timeout_secs" 30 $parsed | int -}}
{{- end -}}

{{/* The pod, for the StatefulSet and for the Deployment. */}}
{{- define "dbward.server.pod" -}}
{{- $server := .Values.server -}}
{{- $name := include "dbward.server.name" . -}}
{{- $sqlite := eq $server.state.backend "sqlite" -}}
metadata:
  labels:
    {{- include "dbward.labels" (dict "root" . "component" "server") | nindent 4 }}
    {{- with $server.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "dbward.server.toml" . | sha256sum }}
    checksum/secrets: {{ include "dbward.server.secrets" . | sha256sum }}
    {{- with $server.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ $name }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  # Longer than the drain, and than what comes before it.
  terminationGracePeriodSeconds: {{ add (include "dbward.server.drain" . | int) ($sqlite | ternary 30 35) }}
  securityContext:
    {{- include "dbward.podSecurity" . | nindent 4 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: server
      image: {{ include "dbward.image" (dict "root" . "image" $server.image) | quote }}
      imagePullPolicy: {{ $server.image.pullPolicy }}
      command: [tini, --, dbward, server, start, --listen, "0.0.0.0:3000", --config, /etc/dbward/dbward-server.toml]
      env:
        - name: DBWARD_LOG_FORMAT
          value: {{ $server.logFormat | quote }}
        {{- range $variable, $secret := include "dbward.server.secrets" . | fromJson }}
        {{- include "dbward.secretEnv" (dict "name" $variable "secret" $secret "made" $name) | nindent 8 }}
        {{- end }}
        {{- with $server.env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $server.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: http
          containerPort: 3000
      # It listens while it waits for the state and migrates it: that is not being dead.
      startupProbe:
        httpGet: {path: /health, port: http}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 60
      livenessProbe:
        httpGet: {path: /health, port: http}
        periodSeconds: 15
        timeoutSeconds: 10
        failureThreshold: 4
      readinessProbe:
        httpGet: {path: /ready, port: http}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      {{- if not $sqlite }}
      # Nobody is sent here any more by the time it stops listening.
      lifecycle:
        preStop:
          sleep: {seconds: 5}
      {{- end }}
      resources:
        {{- toYaml $server.resources | nindent 8 }}
      securityContext:
        {{- include "dbward.containerSecurity" . | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/dbward, readOnly: true}
        - {name: data, mountPath: /data}
        - {name: tmp, mountPath: /tmp}
        {{- if eq $server.results.backend "shared" }}
        - {name: results, mountPath: /results}
        {{- end }}
        {{- with $server.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - name: config
      configMap: {name: {{ $name }}}
    - name: tmp
      emptyDir: {sizeLimit: 256Mi}
    {{- if not $sqlite }}
    # Only what is made anew from the key seed.
    - name: data
      emptyDir: {sizeLimit: 64Mi}
    {{- else if $server.state.sqlite.existingClaim }}
    - name: data
      persistentVolumeClaim: {claimName: {{ $server.state.sqlite.existingClaim }}}
    {{- end }}
    {{- if eq $server.results.backend "shared" }}
    - name: results
      persistentVolumeClaim: {claimName: {{ default (printf "%s-results" $name) $server.results.shared.existingClaim }}}
    {{- end }}
    {{- with $server.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- include "dbward.scheduling" (dict "root" . "of" $server "component" "server") | trim | nindent 2 }}
{{- end -}}
