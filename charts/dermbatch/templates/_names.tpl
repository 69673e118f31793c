{{/* Names and labels. */}}

{{- define "dermbatch.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What selects a component's pods. Takes root and component. */}}
{{- define "dermbatch.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of every object of a component. Takes root and component. */}}
{{- define "dermbatch.labels" -}}
{{ include "dermbatch.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: dermbatch
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Name of a component's service account. Takes root and account, a key of serviceAccounts. */}}
{{- define "dermbatch.account" -}}
{{- $account := index .root.Values.serviceAccounts .account -}}
{{- if $account.name -}}
{{- $account.name -}}
{{- else if .root.Values.serviceAccounts.create -}}
{{- printf "%s-%s" (include "dermbatch.fullname" .root) .account -}}
{{- else -}}
default
{{- end -}}
{{- end -}}

{{/* An image's reference. Takes root and image, a key of images. */}}
{{- define "dermbatch.image" -}}
{{- $image := index .root.Values.images .image -}}
{{- $name := printf "%s/%s" (default $image.registry .root.Values.images.registry) $image.repository -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else if .root.Values.images.requireDigests -}}
{{- fail (printf "images.%s.digest is missing, and images.requireDigests is set" .image) -}}
{{- else -}}
{{- printf "%s:%s" $name (default .root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "dermbatch.redisSecret" -}}
{{- default (printf "%s-redis" (include "dermbatch.fullname" .)) .Values.redis.passwordSecret -}}
{{- end -}}

{{- define "dermbatch.minioSecret" -}}
{{- default (printf "%s-minio" (include "dermbatch.fullname" .)) .Values.minio.credentialsSecret -}}
{{- end -}}

{{/* The Secret with the store's credentials; empty where service accounts have them. */}}
{{- define "dermbatch.storeSecret" -}}
{{- if .Values.minio.enabled -}}{{ include "dermbatch.minioSecret" . }}{{- else -}}{{ .Values.store.credentialsSecret }}{{- end -}}
{{- end -}}

{{- define "dermbatch.storeUrl" -}}
{{- if .Values.minio.enabled -}}
{{- printf "http://%s-minio:9000" (include "dermbatch.fullname" .) -}}
{{- else -}}
{{- .Values.store.endpointUrl -}}
{{- end -}}
{{- end -}}

{{- define "dermbatch.storeRegion" -}}
{{- default (ternary "us-east-1" "" .Values.minio.enabled) .Values.store.region -}}
{{- end -}}

{{/* gRPC of a name with several addresses: our client sends requests to all of them in turn. */}}
{{- define "dermbatch.tritonUrl" -}}
{{- if .Values.triton.enabled -}}
{{- printf "%s-triton%s:8001" (include "dermbatch.fullname" .) (ternary "-pods" "" (eq .Values.triton.balancing "client")) -}}
{{- else -}}
{{- required "triton.url is needed where triton.enabled is false" .Values.triton.url -}}
{{- end -}}
{{- end -}}
