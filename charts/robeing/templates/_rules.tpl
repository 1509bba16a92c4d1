{{/*
What the operator may do where there are RobeingClusters: the rules of the ClusterRole, or of the Role in each watched
namespace. Above each is what it is for.
*/}}
{{- define "robeing.rules" -}}
# It reads the fleets there should be, and is told when one changes. It never writes one.
- apiGroups: [robeing.io]
  resources: [robeingclusters]
  verbs: [get, list, watch]
# It reports what a fleet is.
- apiGroups: [robeing.io]
  resources: [robeingclusters/status]
  verbs: [patch]
# What it makes is owned by the RobeingCluster and blocks its deletion in the foreground. Where the admission plugin
# OwnerReferencesPermissionEnforcement is on, as on OpenShift, setting such an owner takes this right.
- apiGroups: [robeing.io]
  resources: [robeingclusters/finalizers]
  verbs: [update]
# The coordinators are a StatefulSet, and each pool is a Deployment: made, kept as they should be, and removed when they
# leave the spec.
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# How coordinators are found, by agents and by clients; which coordinators found the fleet; and whom its pods run as. No
# Secret is read or written.
- apiGroups: [""]
  resources: [configmaps, serviceaccounts, services]
  verbs: [get, list, watch, create, patch, delete]
# A drain of nodes takes one coordinator at a time.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Who may connect to coordinators and agents.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# It sees which pods are ready, says which agents to remove first (the annotation pod-deletion-cost), and replaces
# coordinators one at a time by deleting their pods. It makes none itself.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# It sees the disks of coordinators, asks for larger ones where the fleet does, and removes that of a coordinator that was
# taken out of the fleet, so that it does not come back with an old log. It makes none itself.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
# It says on a RobeingCluster what happened to it.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
