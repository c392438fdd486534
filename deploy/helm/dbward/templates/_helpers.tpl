{{/* The names of everything are short enough for the suffixes that Kubernetes adds. */}}
{{- define "dbward.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 26 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- (contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name)) | trunc 26 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "dbward.server.name" -}}
{{- include "dbward.fullname" . }}-server
{{- end -}}

{{/* Given (dict "root" $ "component" "server"): what selects the pods of one component. It must not change. */}}
{{- define "dbward.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "dbward.labels" -}}
{{ include "dbward.selector" . }}
app.kubernetes.io/part-of: dbward
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Given (dict "root" $ "image" …). */}}
{{- define "dbward.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default (printf "v%s" .root.Chart.AppVersion) .image.tag }}
{{- end -}}
{{- end -}}

{{/* Given (dict "name" VARIABLE "secret" {value, existingSecret, key} "made" NAME): a variable of a container. */}}
{{- define "dbward.secretEnv" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ default .made .secret.existingSecret }}
      key: {{ empty .secret.existingSecret | ternary (.name | lower | replace "_" "-") .secret.key }}
{{- end -}}

{{- define "dbward.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "dbward.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Given (dict "root" $ "of" server or agent "component" …): what a pod of either says about where it runs. */}}
{{- define "dbward.scheduling" -}}
{{- with .of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
{{- if .of.topologySpreadConstraints }}
  {{- toYaml .of.topologySpreadConstraints | nindent 2 }}
{{- else }}
{{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "dbward.selector" $ | nindent 8 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The port of a URL, also where it does not say it. */}}
{{- define "dbward.port" -}}
{{- $url := urlParse . -}}
{{- $said := regexFind ":[0-9]+$" $url.host -}}
{{- if $said -}}{{ trimPrefix ":" $said }}{{- else -}}{{ eq $url.scheme "http" | ternary "80" "443" }}{{- end -}}
{{- end -}}

{{- define "dbward.dnsEgress" -}}
- to:
    {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
  ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end -}}
