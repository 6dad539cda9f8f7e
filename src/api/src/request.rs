//! The closed set of what can be asked, and how each is named on the wire.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{
    agent, deployment, event, image, instance, net, node, pool, repair, secret, tenant, update,
};

/// One operation: its fields are the request.
pub trait Call: Serialize + DeserializeOwned + Into<Request> + Send {
    /// `<noun>/<verb>`: its name on the wire.
    const NAME: &'static str;
    /// Whether it may change something; such an operation can be watched.
    const EFFECT: Effect;
    /// What it answers.
    type Reply: Serialize + DeserializeOwned + Send;
}

/// Whether an operation may change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It only looks.
    Reads,
    /// It changes things: it gets an id, goes on when its caller leaves, and can be watched.
    Changes,
}

/// A name no operation has, or a body that is not its request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// No such operation.
    #[error("there is no operation {0}")]
    Name(String),
    /// Not its request.
    #[error("this is no request for {name}: {why}")]
    Body {
        /// The operation.
        name: &'static str,
        /// What is wrong.
        why: String,
    },
}

macro_rules! calls {
    ($($variant:ident($call:ty) = $name:literal $effect:ident -> $reply:ty),* $(,)?) => {
        /// Everything that can be asked of an agent.
        #[derive(Debug, Clone)]
        pub enum Request {
            $(
                #[doc = concat!("`", $name, "`")]
                $variant($call),
            )*
        }

        $(
            impl From<$call> for Request {
                fn from(call: $call) -> Self {
                    Self::$variant(call)
                }
            }

            impl Call for $call {
                const NAME: &'static str = $name;
                const EFFECT: Effect = Effect::$effect;
                type Reply = $reply;
            }
        )*

        impl Request {
            /// The names of all operations.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// Its name.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name),* }
            }

            fn fields(&self) -> serde_json::Value {
                // Cannot fail: a call is read from the same form.
                match self { $(Self::$variant(call) => serde_json::to_value(call),)* }
                    .unwrap_or_default()
            }

            /// Whether it may change something.
            pub fn effect(&self) -> Effect {
                match self { $(Self::$variant(_) => Effect::$effect),* }
            }

            /// Reads a request off the wire.
            ///
            /// # Errors
            /// [`Unknown`] when there is no such operation or the body is not its request.
            pub fn decode(name: &str, body: &[u8]) -> Result<Self, Unknown> {
                let why = |name, error: serde_json::Error| {
                    Unknown::Body { name, why: error.to_string() }
                };
                match name {
                    $($name => serde_json::from_slice(body)
                        .map(Self::$variant)
                        .map_err(|error| why($name, error)),)*
                    other => Err(Unknown::Name(other.to_owned())),
                }
            }
        }
    };
}

calls! {
    TenantCreate(tenant::Create) = "tenant/create" Changes -> tenant::View,
    TenantList(tenant::List) = "tenant/list" Reads -> tenant::Listed,
    TenantInfo(tenant::Info) = "tenant/info" Reads -> tenant::View,
    TenantDestroy(tenant::Destroy) = "tenant/destroy" Changes -> (),
    TenantUpdate(update::UpdateTenant) = "tenant/update" Changes -> tenant::View,
    TenantAdopt(update::AdoptTenant) = "tenant/adopt" Changes -> update::Adopted,
    SecretSet(secret::Set) = "secret/set" Changes -> secret::Changed,
    SecretRotate(secret::Rotate) = "secret/rotate" Changes -> secret::Changed,
    SecretRemove(secret::Remove) = "secret/remove" Changes -> secret::Changed,
    SecretList(secret::List) = "secret/list" Reads -> secret::Listed,
    PoolCreate(pool::Create) = "pool/create" Changes -> pool::View,
    PoolList(pool::List) = "pool/list" Reads -> pool::Listed,
    PoolInfo(pool::Info) = "pool/info" Reads -> pool::View,
    PoolScale(pool::Scale) = "pool/scale" Changes -> pool::Scaled,
    PoolDestroy(pool::Destroy) = "pool/destroy" Changes -> (),
    PoolUpdate(update::UpdatePool) = "pool/update" Changes -> update::PoolUpdated,
    PoolAdopt(update::AdoptPool) = "pool/adopt" Changes -> update::Adopted,
    PoolExplain(update::ExplainPool) = "pool/explain" Reads -> update::PoolExplanation,
    PoolBuild(image::BuildPool) = "pool/build" Changes -> image::PoolBuilt,
    PoolRollback(image::Rollback) = "pool/rollback" Changes -> image::RolledBack,
    PoolGc(image::PoolGc) = "pool/gc" Changes -> image::Collected,
    ImageList(image::List) = "image/list" Reads -> Vec<image::View>,
    ImageBuild(image::Build) = "image/build" Changes -> mvm_model::Digest,
    ImageImport(image::Import) = "image/import" Changes -> image::View,
    ImageGc(image::Gc) = "image/gc" Changes -> image::Collected,
    InstanceCreate(instance::Create) = "instance/create" Changes -> instance::View,
    InstanceList(instance::List) = "instance/list" Reads -> instance::Listed,
    InstanceInfo(instance::Info) = "instance/info" Reads -> instance::View,
    InstanceStats(instance::GetStats) = "instance/stats" Reads -> instance::Stats,
    InstanceChange(instance::Change) = "instance/change" Changes -> instance::Changed,
    InstanceDestroy(instance::Destroy) = "instance/destroy" Changes -> (),
    InstanceAdopt(update::AdoptInstance) = "instance/adopt" Changes -> update::Adopted,
    InstanceHostLog(instance::HostLog) = "instance/host-log" Reads -> instance::HostLogText,
    NodeInfo(node::GetInfo) = "node/info" Reads -> node::NodeInfo,
    NodeStats(node::GetStats) = "node/stats" Reads -> node::NodeStats,
    NodeDisk(node::GetDisk) = "node/disk" Reads -> node::NodeDisk,
    NodeGc(node::Gc) = "node/gc" Changes -> node::Collection,
    NodeOverview(node::GetOverview) = "node/overview" Reads -> node::Overview,
    NodeDoctor(node::Doctor) = "node/doctor" Reads -> node::Checks,
    NodeRepair(repair::Repair) = "node/repair" Changes -> repair::Repaired,
    EventList(event::List) = "event/list" Reads -> Vec<event::Event>,
    EventVerify(event::Verify) = "event/verify" Reads -> Vec<event::Verified>,
    NetVerify(net::Verify) = "net/verify" Reads -> net::Report,
    DeploymentNew(deployment::New) = "deployment/new" Changes -> deployment::Deployed,
    DeploymentConnect(deployment::Connect) = "deployment/connect" Reads -> deployment::Dashboard,
    AgentStatus(agent::GetStatus) = "agent/status" Reads -> agent::Status,
    AgentDesired(agent::Desired) = "agent/desired" Reads -> agent::DesiredDocument,
    AgentReconcile(agent::Reconcile) = "agent/reconcile" Changes -> agent::Report,
    AgentReconcileTenants(agent::ReconcileTenants) = "agent/reconcile-tenants" Changes -> agent::Report,
    AgentNudge(agent::Nudge) = "agent/nudge" Reads -> (),
    AgentOperations(agent::ListOperations) = "agent/operations" Reads -> Vec<agent::Operation>,
}

impl Request {
    /// What it does, in one word: `start`.
    pub fn verb(&self) -> String {
        let named = self.name().split_once('/').map_or(self.name(), |(_, verb)| verb);
        self.fields()["verb"].as_str().unwrap_or(named).to_owned()
    }

    /// What it is about: `acme/workers/alice`; empty when that is the whole host.
    pub fn object(&self) -> String {
        let fields = self.fields();
        let text = |key: &&str| fields[*key].as_str().filter(|text| !text.is_empty());
        if let Some(tenants) = fields["tenants"].as_array() {
            let names: Vec<_> = tenants.iter().filter_map(|name| name.as_str()).collect();
            return names.join(", ");
        }
        let keys = ["instance", "pool", "tenant", "name", "path"];
        keys.iter().find_map(text).unwrap_or_default().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_what_it_does_and_to_what() {
        let told = |name, body: &str| {
            let request = Request::decode(name, body.as_bytes()).unwrap();
            (request.verb(), request.object())
        };
        let pair = |verb: &str, object: &str| (verb.to_owned(), object.to_owned());
        let change = r#"{"instance": "acme/workers/alice", "verb": "start"}"#;
        assert_eq!(told("instance/change", change), pair("start", "acme/workers/alice"));
        let create = r#"{"pool": "acme/workers", "name": "alice"}"#;
        assert_eq!(told("instance/create", create), pair("create", "acme/workers"));
        let some = r#"{"tenants": ["acme", "globex"], "timeout_seconds": 9}"#;
        let reconciled = pair("reconcile-tenants", "acme, globex");
        assert_eq!(told("agent/reconcile-tenants", some), reconciled);
        assert_eq!(told("agent/status", "{}"), pair("status", ""));
    }

    #[test]
    fn a_call_is_read_back_by_its_name() {
        let call = instance::Change {
            instance: "acme/workers/alice".parse().unwrap(),
            verb: mvm_model::state::Verb::Wake,
        };
        let body = serde_json::to_vec(&call).unwrap();
        let read = Request::decode("instance/change", &body).unwrap();
        assert!(matches!(&read, Request::InstanceChange(read) if read.instance == call.instance));
        assert_eq!(read.name(), instance::Change::NAME);
        assert_eq!(read.effect(), Effect::Changes);
    }

    #[test]
    fn an_unknown_operation_or_field_is_said() {
        assert_eq!(
            Request::decode("tenant/sing", b"{}").unwrap_err(),
            Unknown::Name("tenant/sing".into())
        );
        let error = Request::decode("tenant/info", br#"{"tenant":"acme","loud":1}"#).unwrap_err();
        assert!(error.to_string().contains("loud"), "{error}");
    }

    #[test]
    fn names_are_unique_and_of_two_words() {
        let mut names = Request::NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Request::NAMES.len());
        assert!(names.iter().all(|name| name.split('/').count() == 2));
    }
}
