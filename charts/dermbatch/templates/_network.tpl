{{/* What pods are let out to, as items of a NetworkPolicy's egress. All take the root. */}}

{{- define "dermbatch.toDns" -}}
- to:
    {{- toYaml .Values.networkPolicy.dnsTo | nindent 4 }}
  ports:
    {{- range .Values.networkPolicy.dnsPorts }}
    - {port: {{ int . }}, protocol: UDP}
    - {port: {{ int . }}, protocol: TCP}
    {{- end }}
{{- end -}}

{{- define "dermbatch.toRedis" -}}
- to:
    {{- if .Values.redis.builtin }}
    - podSelector:
        matchLabels:
          {{- include "dermbatch.selector" (dict "root" . "component" "redis") | nindent 10 }}
  ports:
    - {port: 6379, protocol: TCP}
    {{- else }}
    {{- if not .Values.networkPolicy.redisTo }}{{ fail "networkPolicy.redisTo is needed where redis.builtin is false" }}{{ end }}
    {{- toYaml .Values.networkPolicy.redisTo | nindent 4 }}
  ports:
    - {port: {{ int .Values.networkPolicy.redisPort }}, protocol: TCP}
    {{- end }}
{{- end -}}

{{- define "dermbatch.toStore" -}}
- to:
    {{- if .Values.minio.enabled }}
    - podSelector:
        matchLabels:
          {{- include "dermbatch.selector" (dict "root" . "component" "minio") | nindent 10 }}
  ports:
    - {port: 9000, protocol: TCP}
    {{- else }}
    {{- toYaml .Values.networkPolicy.storeTo | nindent 4 }}
  ports:
    {{- range .Values.networkPolicy.storePorts }}
    - {port: {{ int . }}, protocol: TCP}
    {{- end }}
    {{- end }}
{{- end -}}

{{- define "dermbatch.toTriton" -}}
- to:
    {{- if .Values.triton.enabled }}
    - podSelector:
        matchLabels:
          {{- include "dermbatch.selector" (dict "root" . "component" "triton") | nindent 10 }}
  ports:
    - {port: 8001, protocol: TCP}
    {{- else }}
    {{- if not .Values.networkPolicy.tritonTo }}{{ fail "networkPolicy.tritonTo is needed where triton.enabled is false" }}{{ end }}
    {{- toYaml .Values.networkPolicy.tritonTo | nindent 4 }}
  ports:
    - {port: {{ int .Values.networkPolicy.tritonPort }}, protocol: TCP}
    {{- end }}
{{- end -}}

{{/* Pods of ours, as items of `from`. Takes root and components. */}}
{{- define "dermbatch.fromComponents" -}}
{{- $root := .root -}}
{{- range .components }}
- podSelector:
    matchLabels:
      {{- include "dermbatch.selector" (dict "root" $root "component" .) | nindent 6 }}
{{- end }}
{{- end -}}

{{/* Who may scrape, as an item of ingress. Takes root and port. */}}
{{- define "dermbatch.fromMetrics" -}}
{{- with .root.Values.networkPolicy.metricsFrom }}
- from:
    {{- toYaml . | nindent 4 }}
  ports:
    - {port: {{ $.port }}, protocol: TCP}
{{- end }}
{{- end -}}
