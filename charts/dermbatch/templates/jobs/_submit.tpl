{{/* A pod that submits a batch. Takes root, name (an expression for the batch's name), inputs and arguments. */}}
{{- define "dermbatch.submitPod" -}}
{{- $own := .root.Values.jobs -}}
{{- $of := dict "root" .root "component" "submit" "own" $own "account" "submit" "image" "orchestrator" -}}
metadata:
  {{- include "dermbatch.podMetadata" $of | nindent 2 }}
spec:
  {{- include "dermbatch.pod" $of | nindent 2 }}
  restartPolicy: Never
  containers:
    - name: submit
      {{- include "dermbatch.container" $of | nindent 6 }}
      args:
        - dermbatch
        - submit
        - --batch
        - {{ .name | quote }}
        {{- range .arguments }}
        - {{ . | quote }}
        {{- end }}
        - --
        {{- range .inputs }}
        - {{ . | quote }}
        {{- end }}
      env:
        # Every try of a Job has its name, so a batch that was cut off goes on, and one that is there is found.
        - name: JOB_NAME
          valueFrom:
            fieldRef: {fieldPath: "metadata.labels['batch.kubernetes.io/job-name']"}
        {{- include "dermbatch.environment" .root | trim | nindent 8 }}
        {{- include "dermbatch.tritonEnvironment" .root | nindent 8 }}
        {{- include "dermbatch.tenantsEnvironment" .root | nindent 8 }}
      {{- include "dermbatch.secretSettings" .root | nindent 6 }}
      resources:
        {{- toYaml $own.resources | nindent 8 }}
      volumeMounts:
        {{- include "dermbatch.mounts" .root | nindent 8 }}
        {{- include "dermbatch.tenantsMount" .root | nindent 8 }}
  volumes:
    {{- include "dermbatch.volumes" (dict "root" .root "temporary" $own.temporary) | nindent 4 }}
    {{- include "dermbatch.tenantsVolume" .root | nindent 4 }}
{{- end -}}
