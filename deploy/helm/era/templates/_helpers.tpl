{{- define "era.name" -}}
{{- printf "%s" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "era.labels" -}}
app.kubernetes.io/name: era
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "era.selector" -}}
app.kubernetes.io/name: era
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "era.secret" -}}
{{- default (include "era.name" .) .Values.existingSecret -}}
{{- end -}}

{{- /* What must be true of the values together. */ -}}
{{- define "era.check" -}}
{{- if not .Values.existingSecret -}}
{{- if gt (int .Values.replicas) 1 -}}
{{- $_ := required "database.url is required with more than one replica (or existingSecret)" .Values.database.url -}}
{{- $_ := required "blobs.url is required with more than one replica (or existingSecret)" .Values.blobs.url -}}
{{- $_ := required "secretKey is required with more than one replica: one key for all (or existingSecret)" .Values.secretKey -}}
{{- end -}}
{{- $_ := required "apiKey is required: whoever reaches the service can run code (or existingSecret)" .Values.apiKey -}}
{{- end -}}
{{- end -}}
