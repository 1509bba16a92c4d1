//! The OpenAPI 3.1 document that describes the gateway. Tests compare it with what is served: the paths and methods, and
//! the fields of requests and responses.

mod tasks;

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::{
    MAX_BODY, MAX_WAIT,
    cloudevents::{EVENT, EVENTS},
    media::Media,
    messages::MESSAGES,
    problem::PROBLEM_JSON,
    requests::{MAX_KEY, MAX_TASKS},
    server::{HEALTHZ, MAX_REASON, OPENAPI},
    tasks::TASKS,
};

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| build().to_string().into());

/// Returns the document, JSON.
pub fn document() -> Bytes {
    DOCUMENT.clone()
}

fn build() -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Robeing gateway",
            "version": "1",
            "description": "Tasks and messages of a Robeing fleet over HTTP. Bodies are JSON, CBOR with the same fields, \
                or protobuf: the messages of the package robeing.v1.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {"certificate": []}, {}],
        "paths": paths(),
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "A token of the audience robeing."},
                "certificate": {"type": "mutualTLS", "description": "A client certificate of the fleet."},
            },
            "schemas": schemas(),
        },
    })
}

fn paths() -> Value {
    merged([task_paths(), message_paths(), own_paths()])
}

/// Returns the members of all these objects.
fn merged<const N: usize>(parts: [Value; N]) -> Value {
    let objects = parts.into_iter().filter_map(|part| if let Value::Object(part) = part { Some(part) } else { None });
    Value::Object(objects.flatten().collect())
}

fn task_paths() -> Value {
    json!({
        TASKS: {"post": {
            "operationId": "submitTasks",
            "summary": "Submits one task, or several.",
            "parameters": [wait("Return the finished task, if it ends within this time. Only for a single task."), key()],
            "requestBody": body(&["NewTask", "NewTasks"], "SubmitRequest"),
            "responses": responses([
                ("200", "What became of each task of a list, or the finished task.", &["SubmittedList", "Task"][..]),
                ("202", "The task is accepted.", &["Submitted"]),
            ]),
        }},
        "/v1/tasks/{id}": {
            "parameters": [id()],
            "get": {
                "operationId": "getTask",
                "summary": "Returns a task.",
                "parameters": [wait("Return the task once it has ended, or as it is after this time.")],
                "responses": responses([("200", "The task.", &["Task"][..])]),
            },
            "delete": {
                "operationId": "cancelTask",
                "summary": "Cancels a task. One that has ended stays as it is.",
                "parameters": [{
                    "name": "reason", "in": "query", "description": "Why.",
                    "schema": {"type": "string", "maxLength": MAX_REASON},
                }],
                "responses": responses([("200", "The state of the task.", &["Cancelled"][..])]),
            },
        },
    })
}

fn message_paths() -> Value {
    json!({
        MESSAGES: {"post": {
            "operationId": "sendMessage",
            "summary": "Sends a message to an agent, and returns what became of it.",
            "parameters": [key(), {
                "name": "to", "in": "query", "description": "For whom a CloudEvent is.", "schema": {"type": "string"},
            }],
            "requestBody": body(&["NewMessage"], "SendMessageRequest"),
            "responses": responses([
                ("200", "It is accepted; with broadcast, what became of it at each agent.", &["Outcomes"][..]),
                ("202", "It is kept for its receiver.", &["Outcomes"]),
            ]),
        }},
        "/v1/messages/{id}": {
            "parameters": [id()],
            "get": {
                "operationId": "getMessage",
                "summary": "Returns what became of a message.",
                "parameters": [wait("Wait for so long until the receiver has decided.")],
                "responses": responses([("200", "What became of it.", &["MessageStatus"][..])]),
            },
        },
    })
}

fn own_paths() -> Value {
    json!({
        OPENAPI: {"get": {
            "operationId": "getDocument", "summary": "Returns this document.", "security": [{}],
            "responses": {"200": {"description": "This document.", "content": {"application/json": {}}}},
        }},
        HEALTHZ: {"get": {
            "operationId": "getHealth", "summary": "Tells whether the gateway serves.", "security": [{}],
            "responses": {"200": {"description": "It does.", "content": {"text/plain": {}}}},
        }},
    })
}

fn wait(description: &str) -> Value {
    json!({
        "name": "wait", "in": "query",
        "description": format!("{description} A duration such as 30s; at most {} s.", MAX_WAIT.as_secs()),
        "schema": {"type": "string"},
    })
}

fn key() -> Value {
    json!({
        "name": "Idempotency-Key", "in": "header",
        "description": "A request with the key of an earlier one does nothing twice. It becomes the task's key, or the \
            id of the message.",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
    })
}

fn id() -> Value {
    json!({"name": "id", "in": "path", "required": true, "schema": {"type": "string", "format": "uuid"}})
}

fn any_of(schemas: &[&str]) -> Value {
    let mut list: Vec<Value> =
        schemas.iter().map(|name| json!({"$ref": format!("#/components/schemas/{name}")})).collect();
    if list.len() == 1 { list.remove(0) } else { json!({"anyOf": list}) }
}

fn content(schemas: &[&str]) -> Map<String, Value> {
    let of = |media: Media| match media {
        Media::Json | Media::Cbor => json!({"schema": any_of(schemas)}),
        Media::Protobuf => json!({"schema": {"contentMediaType": media.as_str()}}),
    };
    Media::ALL.into_iter().map(|media| (media.as_str().to_owned(), of(media))).collect()
}

fn body(schemas: &[&str], message: &str) -> Value {
    json!({
        "required": true,
        "description": format!("At most {MAX_BODY} bytes. As protobuf: robeing.v1.{message}."),
        "content": with_events(content(schemas)),
    })
}

/// Adds the media types of events. In binary mode, an event is a body of any type with the headers `ce-…`.
fn with_events(mut content: Map<String, Value>) -> Map<String, Value> {
    let event = json!({"type": "object", "required": ["specversion", "id", "source", "type"]});
    content.insert(EVENT.to_owned(), json!({"schema": event}));
    content.insert(EVENTS.to_owned(), json!({"schema": {"type": "array", "maxItems": MAX_TASKS, "items": event}}));
    content
}

fn responses<const N: usize>(good: [(&str, &str, &[&str]); N]) -> Value {
    let mut all: Map<String, Value> = good
        .into_iter()
        .map(|(status, description, schemas)| {
            (status.to_owned(), json!({"description": description, "content": content(schemas)}))
        })
        .collect();
    let problem = json!({
        "description": "What went wrong (RFC 9457).",
        "content": {PROBLEM_JSON: {"schema": any_of(&["Problem"])}},
    });
    all.insert("default".to_owned(), problem);
    Value::Object(all)
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn time(description: &str) -> Value {
    json!({"type": "string", "format": "date-time", "description": description})
}

fn span(description: &str) -> Value {
    json!({"type": "string", "description": format!("{description} A duration such as 30s or 1m30s.")})
}

fn base64(description: &str) -> Value {
    json!({"type": "string", "contentEncoding": "base64", "description": description})
}

fn priority() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": 10, "default": 5, "description": "10 is the highest."})
}

fn schemas() -> Value {
    merged([tasks::schemas(), message_schemas()])
}

fn message_schemas() -> Value {
    json!({
        "NewMessage": {
            "type": "object",
            "required": ["to", "type"],
            "additionalProperties": false,
            "properties": {
                "id": json!({"type": "string", "format": "uuid", "description": "Unset: the gateway generates one."}),
                "to": text("NAME, agent:NAME, role:ROLE, pool:NAME, skill:NAME, team:ID or everyone."),
                "type": text("What kind of message it is; 1 to 128 bytes."),
                "payload": json!({"description": "A string is the payload itself; any other value is passed on as its JSON text. At most 1 MiB."}),
                "payloadBase64": base64("The payload as bytes, instead of payload."),
                "priority": priority(),
                "deadline": span("How long the receiver has to decide: up to 10 min, or 7 days if durable."),
                "durable": json!({"type": "boolean", "default": false, "description": "Keep it for a receiver that is away."}),
                "broadcast": json!({"type": "boolean", "default": false, "description": "Send it to all agents that the address stands for."}),
            },
        },
        "MessageStatus": {
            "type": "object",
            "required": ["id", "outcome"],
            "properties": {
                "id": text("Id of the message to this agent."),
                "agent": text("Name of the agent."),
                "outcome": json!({"type": "string", "enum": ["accepted", "refused", "no_such_agent", "away",
                    "deadline_passed", "overloaded", "kept", "unsealable", "unknown"]}),
                "reason": text("A sentence, unless it was accepted."),
                "reply": text("The receiver's reply, if it is UTF-8."),
                "replyBase64": base64("The receiver's reply, if it is not UTF-8."),
                "sealedReply": json!({"type": "boolean", "description": "The receiver replied, and only who sent the message first can read it."}),
            },
        },
        "Outcomes": {
            "type": "object",
            "required": ["outcomes"],
            "properties": {"outcomes": {"type": "array", "items": any_of(&["MessageStatus"])}},
        },
        "Problem": {
            "type": "object",
            "required": ["title", "status", "detail", "code"],
            "properties": {
                "title": text("The name of the HTTP status."),
                "status": json!({"type": "integer"}),
                "detail": text("A sentence: what went wrong, and what to do."),
                "code": text("Name of a gRPC code, or of what is wrong with the request."),
                "id": text("Id of the task that is accepted, but can't be waited for."),
                "outcomes": json!({"type": "array", "items": any_of(&["MessageStatus"]),
                    "description": "What became of a message that was not accepted."}),
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use robeing_proto::v1::{CancelResult, MessageStatus, SubmitResult};
    use serde::Serialize;

    use super::*;
    use crate::roles::messenger::gateway::{
        forms::{self, MessageForm},
        server::Route,
        task_form::TaskForm,
        views::{BatchView, CancelledView, MessageView, OutcomesView, SubmittedView, TaskView, samples},
    };

    fn served() -> Value {
        serde_json::from_slice(&document()).expect("it is JSON")
    }

    fn keys(object: &Value) -> BTreeSet<String> {
        object.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    }

    fn shown(view: &impl Serialize) -> Value {
        serde_json::to_value(view).expect("it has a JSON form")
    }

    fn of(view: &impl Serialize) -> BTreeSet<String> {
        keys(&shown(view))
    }

    fn fields(schema: &str) -> BTreeSet<String> {
        keys(&served()["components"]["schemas"][schema]["properties"])
    }

    #[test]
    fn it_has_the_paths_and_methods_that_are_served() {
        let document = served();
        let routes =
            [Route::Health, Route::OpenApi, Route::Tasks, Route::Task("i"), Route::Messages, Route::Message("i")];
        let patterns: BTreeSet<String> = routes.iter().map(|route| route.pattern().to_owned()).collect();
        assert_eq!(keys(&document["paths"]), patterns);
        for route in routes {
            let mut methods = keys(&document["paths"][route.pattern()]);
            methods.remove("parameters");
            let served = route.methods().to_lowercase();
            // HEAD is GET without the body.
            let served = served.split(", ").filter(|method| *method != "head").map(str::to_owned).collect();
            assert_eq!(methods, served, "{}", route.pattern());
        }
    }

    #[test]
    fn its_schemas_have_the_fields_of_the_responses() {
        let status = samples::message();
        let text = MessageStatus { reply: Some("é".into()), ..samples::message() };
        let mut message = of(&MessageView::from(&status));
        message.extend(of(&MessageView::from(&text)));
        assert_eq!(fields("MessageStatus"), message);
        assert_eq!(fields("Outcomes"), of(&OutcomesView::from(&[][..])));
        let task = samples::task();
        let with_text = robeing_proto::v1::Task { output: "é".into(), ..samples::task() };
        let mut expected = of(&TaskView::from(&task));
        expected.extend(of(&TaskView::from(&with_text)));
        let output_ref = Some(robeing_proto::v1::BlobRef::default());
        let stored = robeing_proto::v1::Task { output_ref, ..samples::task() };
        expected.extend(of(&TaskView::from(&stored)));
        assert_eq!(fields("Task"), expected);
        let (view, served) = (shown(&TaskView::from(&task)), served());
        let schema = &served["components"]["schemas"]["Task"]["properties"];
        for part in ["failure", "partOf", "subtasks"] {
            assert_eq!(keys(&schema[part]["properties"]), keys(&view[part]), "{part}");
        }
        assert_eq!(keys(&schema["dependsOn"]["items"]["properties"]), keys(&view["dependsOn"][0]));
        let accepted = SubmitResult { task_id: "i".into(), ..SubmitResult::default() };
        let refusal = Some(forms::refused("r".into()));
        let refused = SubmitResult { refusal, retry_after_ms: 1, ..SubmitResult::default() };
        let mut submitted = of(&SubmittedView::from(&accepted));
        submitted.extend(of(&SubmittedView::from(&refused)));
        assert_eq!(fields("Submitted"), submitted);
        assert_eq!(fields("SubmittedList"), of(&BatchView::from(&[][..])));
        assert_eq!(fields("Cancelled"), of(&CancelledView::from(&CancelResult::default())));
    }

    #[test]
    fn its_schemas_have_the_fields_of_the_requests() {
        // A form names its fields when it meets one that it does not have.
        let listed = |error: String| -> BTreeSet<String> {
            let list =
                error.split("expected one of ").nth(1).expect("a list").split(" at line").next().unwrap_or_default();
            list.split(", ").map(|name| name.trim_matches('`').to_owned()).collect()
        };
        let error = forms::parse::<TaskForm<'_>>(b"{\"?\":1}").expect_err("there is no such field");
        assert_eq!(fields("NewTask"), listed(error));
        let error = forms::parse::<MessageForm<'_>>(b"{\"?\":1}").expect_err("there is no such field");
        assert_eq!(fields("NewMessage"), listed(error));
    }

    #[test]
    fn what_it_refers_to_is_there() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let document = served();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("it is in the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }
}
