{{/* What scales workers and Triton. The queries are those of deploy/prometheus/scaling.yaml, which files/ links to. */}}

{{/* A query of that file, for this release. Takes root, target and trigger. */}}
{{- define "dermbatch.query" -}}
{{- $root := .root -}}
{{- $trigger := .trigger -}}
{{- range (index (.root.Files.Get "files/scaling.yaml" | fromYaml).targets .target).triggers -}}
{{- if eq .name $trigger -}}
{{- .query | replace "$namespace" $root.Release.Namespace -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Work of lanes. Takes root and lanes. */}}
{{- define "dermbatch.workQuery" -}}
{{- if eq (len .lanes) 1 -}}
{{- include "dermbatch.query" (dict "root" .root "target" "worker-live" "trigger" "work") | replace "lane=\"live\"" (printf "lane=%q" (first .lanes)) -}}
{{- else -}}
{{- include "dermbatch.query" (dict "root" .root "target" "worker-bulk" "trigger" "work") -}}
{{- end -}}
{{- end -}}

{{/* One trigger of a ScaledObject. Takes root, name, query, type and threshold. */}}
{{- define "dermbatch.trigger" -}}
{{- $prometheus := .root.Values.autoscaling.prometheus -}}
- type: prometheus
  name: {{ .name }}
  metricType: {{ .type }}
  metadata:
    serverAddress: {{ $prometheus.url | quote }}
    query: {{ .query | quote }}
    threshold: {{ .threshold | quote }}
    activationThreshold: "0"
    # No answer is no zero: pods stay as they are.
    ignoreNullValues: "false"
    {{- with $prometheus.authModes }}
    authModes: {{ . }}
    {{- end }}
  {{- with $prometheus.triggerAuthentication }}
  authenticationRef: {name: {{ . }}}
  {{- end }}
{{- end -}}

{{/* A ScaledObject's fields beside its triggers. Takes root, name and own, which has min, max and times. */}}
{{- define "dermbatch.scaled" -}}
{{- if not (or .root.Values.monitoring.rules.enabled .root.Values.autoscaling.prometheus.rulesLoaded) -}}
{{- fail "autoscaling.mode keda asks for what the recording rules make: set monitoring.rules.enabled, or load deploy/prometheus/rules.yaml yourself and set autoscaling.prometheus.rulesLoaded" -}}
{{- end -}}
scaleTargetRef:
  name: {{ .name }}
minReplicaCount: {{ int .own.min }}
maxReplicaCount: {{ int .own.max }}
pollingInterval: {{ int .root.Values.autoscaling.pollingSeconds }}
cooldownPeriod: {{ int .own.cooldownSeconds }}
advanced:
  horizontalPodAutoscalerConfig:
    behavior:
      {{- include "dermbatch.behavior" . | nindent 6 }}
{{- end -}}

{{/* Takes own. */}}
{{- define "dermbatch.behavior" -}}
scaleDown:
  stabilizationWindowSeconds: {{ int .own.scaleDownAfterSeconds }}
  policies:
    - {type: Percent, value: 50, periodSeconds: 60}
{{- end -}}

{{/* An HPA by processor use. Takes root, name and own. */}}
{{- define "dermbatch.hpa" -}}
scaleTargetRef:
  apiVersion: apps/v1
  kind: Deployment
  name: {{ .name }}
minReplicas: {{ max 1 (int .own.min) }}
maxReplicas: {{ int .own.max }}
metrics:
  - type: Resource
    resource:
      name: cpu
      target: {type: Utilization, averageUtilization: {{ int .root.Values.autoscaling.cpuPercent }}}
behavior:
  {{- include "dermbatch.behavior" . | nindent 2 }}
{{- end -}}
