{{/* The name of all objects, truncated so that a pod's name, with the suffix of a Deployment, is a DNS label. */}}
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
The labels that select the pods; they can never change. The name is not "robeing": that is the label of the objects that
the operator creates and deletes.
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

{{/* Converts a duration such as 1m30s to milliseconds. */}}
{{- define "robeing.milliseconds" -}}
{{- $units := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h)" . -1 -}}
{{- $unit := regexFind "[a-z]+" . -}}
{{- $sum = add $sum (mul (trimSuffix $unit . | int64) (get $units $unit)) -}}
{{- end -}}
{{- $sum -}}
{{- end -}}

{{/* Checks the settings of the Lease that the schema can't check and the operator would refuse at its start. */}}
{{- define "robeing.checkedLease" -}}
{{- $duration := include "robeing.milliseconds" .Values.lease.duration | int64 -}}
{{- $deadline := include "robeing.milliseconds" .Values.lease.renewDeadline | int64 -}}
{{- $retry := include "robeing.milliseconds" .Values.lease.retryPeriod | int64 -}}
{{- if ge $deadline $duration -}}
{{- fail (printf "lease.renewDeadline (%s) must be shorter than lease.duration (%s)" .Values.lease.renewDeadline .Values.lease.duration) -}}
{{- end -}}
{{- if or (lt $retry 1) (gt (mul $retry 2) $deadline) -}}
{{- fail (printf "lease.retryPeriod (%s) must be at most half of lease.renewDeadline (%s), and not zero" .Values.lease.retryPeriod .Values.lease.renewDeadline) -}}
{{- end -}}
{{- end -}}

{{- define "robeing.image" -}}
{{- $image := printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- if .Values.image.digest -}}
{{- $image = printf "%s@%s" $image .Values.image.digest -}}
{{- end -}}
{{- $image -}}
{{- end -}}
