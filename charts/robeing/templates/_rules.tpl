{{/*
The operator's rights where there are RobeingClusters: the rules of the ClusterRole, or of the Role in each watched
namespace. The comment above each rule states its purpose.
*/}}
{{- define "robeing.rules" -}}
# It reads and watches the desired fleets. It never writes one.
- apiGroups: [robeing.io]
  resources: [robeingclusters]
  verbs: [get, list, watch]
# It reports the status of a fleet.
- apiGroups: [robeing.io]
  resources: [robeingclusters/status]
  verbs: [patch]
# The objects it creates are owned by the RobeingCluster and block its foreground deletion. If the admission plugin
# OwnerReferencesPermissionEnforcement is enabled, as on OpenShift, setting such an owner requires this right.
- apiGroups: [robeing.io]
  resources: [robeingclusters/finalizers]
  verbs: [update]
# The coordinators are a StatefulSet, and each pool is a Deployment. It creates them, keeps them in their desired state,
# and deletes them when they are removed from the spec.
- apiGroups: [apps]
  resources: [deployments, statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# The Services by which agents and clients find coordinators, the ConfigMaps with the initial coordinators and the trusted
# authorities, and the ServiceAccounts of the pods.
- apiGroups: [""]
  resources: [configmaps, serviceaccounts, services]
  verbs: [get, list, watch, create, patch, delete]
# The Secrets with the certificate authority of each fleet and the join secrets of its pools, and the authority that a
# fleet names. It knows their names: it neither lists nor watches any.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch, delete]
# A Role and a RoleBinding let the coordinators of each fleet ask what people may do, and two more are for those who use
# and administer the fleet. It can grant no right that it does not have itself: the ones below.
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch, delete]
# It does not use this right, which it grants to coordinators.
- apiGroups: [authorization.k8s.io]
  resources: [localsubjectaccessreviews]
  verbs: [create]
# It does not use this right, which it grants to the accounts of each fleet for people: to submit and read tasks.
- apiGroups: [robeing.io]
  resources: [robeingclusters/tasks]
  verbs: [get, create]
# It does not use this right, which it grants to the same accounts: to send messages and vote.
- apiGroups: [robeing.io]
  resources: [robeingclusters/messages, robeingclusters/votes]
  verbs: [create]
# It does not use this right, which it grants to the account of each fleet for those who administer it.
- apiGroups: [robeing.io]
  resources: [robeingclusters/admin]
  verbs: [update]
# Draining nodes evicts one coordinator at a time.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# These restrict who may connect to coordinators and agents.
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# It reads which pods are ready, marks which agents to delete first (the annotation pod-deletion-cost), and replaces
# coordinators one at a time by deleting their pods. It creates no pods itself.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# It reads the disks of coordinators, requests larger ones if the fleet does, and deletes the disk of a coordinator that
# was removed from the fleet, so that it does not return with an old log. It creates no disks itself.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, patch, delete]
# It publishes events about RobeingClusters.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end -}}
