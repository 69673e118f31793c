{{/* What pods have in common. */}}

{{/* A pod template's metadata. Takes root, component, own (the component's values) and labels (further ones). */}}
{{- define "dermbatch.podMetadata" -}}
labels:
  {{- include "dermbatch.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .root.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .own.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The fields of a pod beside its containers and volumes. Takes root, component, own and account. */}}
{{- define "dermbatch.pod" -}}
serviceAccountName: {{ include "dermbatch.account" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  {{- with .root.Values.podSecurity.runAsUser }}
  runAsUser: {{ int64 . }}
  {{- end }}
  {{- with .root.Values.podSecurity.runAsGroup }}
  runAsGroup: {{ int64 . }}
  {{- end }}
  {{- with .root.Values.podSecurity.fsGroup }}
  fsGroup: {{ int64 . }}
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Spread over nodes where that can be. Takes root, component and labels. */}}
{{- define "dermbatch.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "dermbatch.selector" . | nindent 8 }}
        {{- with .labels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end -}}

{{/* A container's image and what it may do. Takes root and image. */}}
{{- define "dermbatch.container" -}}
image: {{ include "dermbatch.image" . }}
imagePullPolicy: {{ .root.Values.images.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  privileged: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}

{{/* Name of the Secret with the key that messages in the queue are signed with. */}}
{{- define "dermbatch.signingSecret" -}}
{{- .Values.redis.signingSecret | default (printf "%s-signing" (include "dermbatch.fullname" .)) -}}
{{- end -}}

{{/* Variables of every program of ours: Redis, the store, what the user sets. */}}
{{- define "dermbatch.environment" -}}
{{- $name := include "dermbatch.fullname" . -}}
{{- if .Values.redis.builtin }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ include "dermbatch.redisSecret" . }}, key: password}
- name: DERMBATCH_REDIS__URL
  {{- if .Values.redis.tls.enabled }}
  value: rediss://:$(REDIS_PASSWORD)@{{ $name }}-redis:6379/0?ssl_cert_reqs=required&ssl_ca_certs=/etc/dermbatch/redis/ca.crt
  {{- else }}
  value: redis://:$(REDIS_PASSWORD)@{{ $name }}-redis:6379/0
  {{- end }}
{{- else }}
- name: DERMBATCH_REDIS__URL
  valueFrom:
    secretKeyRef:
      name: {{ required "redis.urlSecret is needed where redis.builtin is false" .Values.redis.urlSecret }}
      key: url
{{- end }}
- name: DERMBATCH_REDIS__SIGNING_KEY
  valueFrom:
    secretKeyRef: {name: {{ include "dermbatch.signingSecret" . }}, key: signingKey}
{{- with include "dermbatch.storeUrl" . }}
- name: DERMBATCH_STORE__ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with include "dermbatch.storeRegion" . }}
- name: DERMBATCH_STORE__REGION
  value: {{ . | quote }}
{{- end }}
- name: DERMBATCH_STORE__BUCKET
  value: {{ .Values.store.bucket | quote }}
- name: DERMBATCH_STORE__INCOMING_BUCKET
  value: {{ .Values.store.incomingBucket | quote }}
{{- with include "dermbatch.storeSecret" . }}
- name: DERMBATCH_STORE__ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: accessKeyId}
- name: DERMBATCH_STORE__SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: secretAccessKey}
{{- end }}
{{- if .Values.store.caSecret }}
- name: AWS_CA_BUNDLE
  value: /etc/dermbatch/store/ca.crt
{{- end }}
{{- if .Values.audit }}
- name: DERMBATCH_AUDIT__FOLDER
  value: "-"
{{- end }}
{{- range $variable, $value := .Values.settings }}
- name: {{ $variable }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Where the programs reach Triton. Pods share no /dev/shm, so tensors travel within the messages. */}}
{{- define "dermbatch.tritonEnvironment" -}}
- name: DERMBATCH_TRITON__URL
  value: {{ include "dermbatch.tritonUrl" . | quote }}
- name: DERMBATCH_TRITON__SHARED_MEMORY_BYTES
  value: "0"
{{- end -}}

{{- define "dermbatch.secretSettings" -}}
{{- with .Values.secretSettings }}
envFrom:
  {{- range . }}
  - secretRef: {name: {{ . }}}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Name of the Secret with the authority that signed Redis' certificate; empty where none is needed. */}}
{{- define "dermbatch.redisCa" -}}
{{- if and .Values.redis.builtin .Values.redis.tls.enabled -}}
{{- required "redis.tls.secret is needed where redis.tls.enabled is true" .Values.redis.tls.secret -}}
{{- else if not .Values.redis.builtin -}}
{{- .Values.redis.caSecret -}}
{{- end -}}
{{- end -}}

{{- define "dermbatch.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if include "dermbatch.redisCa" . }}
- {name: redis-ca, mountPath: /etc/dermbatch/redis, readOnly: true}
{{- end }}
{{- if .Values.store.caSecret }}
- {name: store-ca, mountPath: /etc/dermbatch/store, readOnly: true}
{{- end }}
{{- end -}}

{{/* Takes root and temporary, the size of /tmp. */}}
{{- define "dermbatch.volumes" -}}
- name: tmp
  emptyDir: {sizeLimit: {{ .temporary }}}
{{- with include "dermbatch.redisCa" .root }}
- name: redis-ca
  secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- with .root.Values.store.caSecret }}
- name: store-ca
  secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end -}}

{{/* Where tenants are declared, for the programs that submit: variable, mount and volume. Each takes the root. */}}
{{- define "dermbatch.tenantsEnvironment" -}}
{{- if .Values.tenants -}}
- name: DERMBATCH_TENANTS__FILE
  value: /etc/dermbatch/tenants/tenants.yaml
{{- end }}
{{- end -}}

{{- define "dermbatch.tenantsMount" -}}
{{- if .Values.tenants -}}
- {name: tenants, mountPath: /etc/dermbatch/tenants, readOnly: true}
{{- end }}
{{- end -}}

{{- define "dermbatch.tenantsVolume" -}}
{{- if .Values.tenants -}}
- name: tenants
  configMap: {name: {{ include "dermbatch.fullname" . }}-tenants}
{{- end }}
{{- end -}}

{{/* Where price lists are, for what closes batches and shows usage: variable, mount and volume. Each takes the root. */}}
{{- define "dermbatch.pricesEnvironment" -}}
{{- if .Values.prices -}}
- name: DERMBATCH_METERING__PRICES
  value: /etc/dermbatch/prices/prices.yaml
{{- end }}
{{- end -}}

{{- define "dermbatch.pricesMount" -}}
{{- if .Values.prices -}}
- {name: prices, mountPath: /etc/dermbatch/prices, readOnly: true}
{{- end }}
{{- end -}}

{{- define "dermbatch.pricesVolume" -}}
{{- if .Values.prices -}}
- name: prices
  configMap: {name: {{ include "dermbatch.fullname" . }}-prices}
{{- end }}
{{- end -}}
