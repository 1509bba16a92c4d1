{{/* Name of all objects. Shortened so that a pod's name, with what a Deployment adds, is one DNS label. */}}
{{- define "robeing.name" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains "robeing" .Release.Name -}}
{{- printf "%s-operator" (.Release.Name | trunc 36 | trimSuffix "-") -}}
{{- else -}}
{{- printf "%s-robeing-operator" (.Release.Name | trunc 28 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/*
What selects the pods; it can never change. The name is not "robeing": that is the label of what the operator makes and
removes.
*/}}
{{- define "robeing.selector" -}}
app.kubernetes.io/name: robeing-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "robeing.labels" -}}
{{ include "robeing.selector" . }}
app.kubernetes.io/component: operator
app.kubernetes.io/part-of: robeing
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "robeing.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "robeing.name" .) -}}
{{- end -}}

{{- define "robeing.image" -}}
{{- $image := printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- if .Values.image.digest -}}
{{- $image = printf "%s@%s" $image .Values.image.digest -}}
{{- end -}}
{{- $image -}}
{{- end -}}
