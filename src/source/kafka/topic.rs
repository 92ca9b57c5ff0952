//! What only the admin interface tells of a topic: its id, how long it keeps records, whose clock stamps them.
//!
//! The `rdkafka` crate wraps neither DescribeTopics nor a blocking DescribeConfigs, so this speaks to librdkafka itself. It
//! is the one place of `unsafe` here: every object made is destroyed in the function that made it, what librdkafka lends is
//! copied before that.

use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_int};
use std::ptr;
use std::time::Duration;

use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

use native::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR as NO_ERROR;

/// librdkafka's text of an id that a broker of old does not give.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// How a topic is configured, as far as the clock minds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TopicConfig {
    /// `retention.ms`; `None`: for ever, or not known.
    pub retention_ms: Option<i64>,
    /// Whether the broker stamps the records; `None` where not known.
    pub log_append_time: Option<bool>,
}

/// The topic's id: another one is another topic, whatever its name. `None` where the broker gives none or does not answer.
pub(super) fn id<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    within: Duration,
) -> Option<String> {
    let name = CString::new(topic).ok()?;
    let mut names = [name.as_ptr()];
    let op = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    // SAFETY: `names` and `name` live until the collection is destroyed, which copies them anyway.
    let topics = unsafe { native::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1) };
    let answer = ask(
        client,
        op,
        within,
        // SAFETY: all four are alive during the call; librdkafka copies what it needs later.
        |rk, options, queue| unsafe { native::rd_kafka_DescribeTopics(rk, topics, options, queue) },
        |event| {
            let mut n = 0;
            // SAFETY: the event is alive, and what it lends lives as long; null and length are looked at first.
            unsafe {
                let result = native::rd_kafka_event_DescribeTopics_result(event);
                let found = (!result.is_null())
                    .then(|| native::rd_kafka_DescribeTopics_result_topics(result, &raw mut n))?;
                let topic = if n > 0 && !found.is_null() { *found } else { return None };
                if native::rd_kafka_error_code(native::rd_kafka_TopicDescription_error(topic)) != NO_ERROR {
                    return None;
                }
                let id = native::rd_kafka_TopicDescription_topic_id(topic);
                text(if id.is_null() { ptr::null() } else { native::rd_kafka_Uuid_base64str(id) })
            }
        },
    );
    // SAFETY: made above, used by nobody any more.
    unsafe { native::rd_kafka_TopicCollection_destroy(topics) };
    answer.filter(|id| id != NO_ID)
}

/// The topic's configuration. `None` where it cannot be read: no permission, no answer.
pub(super) fn config<C: ConsumerContext>(
    client: &BaseConsumer<C>,
    topic: &str,
    within: Duration,
) -> Option<TopicConfig> {
    let name = CString::new(topic).ok()?;
    let kind = native::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
    // SAFETY: the name is copied.
    let mut resources = [unsafe { native::rd_kafka_ConfigResource_new(kind, name.as_ptr()) }];
    let op = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS;
    let answer = ask(
        client,
        op,
        within,
        // SAFETY: all are alive during the call; librdkafka copies what it needs later.
        |rk, options, queue| unsafe {
            native::rd_kafka_DescribeConfigs(rk, resources.as_mut_ptr(), 1, options, queue);
        },
        // SAFETY: the event is alive, and what it lends lives as long; null and length are looked at first.
        |event| unsafe {
            let mut n = 0;
            let result = native::rd_kafka_event_DescribeConfigs_result(event);
            let found = (!result.is_null())
                .then(|| native::rd_kafka_DescribeConfigs_result_resources(result, &raw mut n))?;
            let resource = if n > 0 && !found.is_null() { *found } else { return None };
            if native::rd_kafka_ConfigResource_error(resource) != NO_ERROR {
                return None;
            }
            let mut n = 0;
            let entries = native::rd_kafka_ConfigResource_configs(resource, &raw mut n);
            let mut config = TopicConfig::default();
            for i in 0..if entries.is_null() { 0 } else { n } {
                let entry = *entries.add(i);
                let (name, value) = (
                    text(native::rd_kafka_ConfigEntry_name(entry)),
                    text(native::rd_kafka_ConfigEntry_value(entry)),
                );
                match (name.as_deref(), value) {
                    (Some("retention.ms"), Some(v)) => {
                        config.retention_ms = v.parse().ok().filter(|ms| *ms >= 0)
                    }
                    (Some("message.timestamp.type"), Some(v)) => {
                        config.log_append_time = Some(v == "LogAppendTime");
                    }
                    _ => {}
                }
            }
            Some(config)
        },
    );
    // SAFETY: made above, used by nobody any more.
    unsafe { native::rd_kafka_ConfigResource_destroy(resources[0]) };
    answer
}

/// Asks one question and waits for its answer.
fn ask<C: ConsumerContext, T>(
    client: &BaseConsumer<C>,
    op: native::rd_kafka_admin_op_t,
    within: Duration,
    question: impl FnOnce(
        *mut native::rd_kafka_t,
        *mut native::rd_kafka_AdminOptions_t,
        *mut native::rd_kafka_queue_t,
    ),
    answer: impl FnOnce(*mut native::rd_kafka_event_t) -> Option<T>,
) -> Option<T> {
    let rk = client.client().native_ptr();
    let ms = c_int::try_from(within.as_millis()).unwrap_or(c_int::MAX);
    let mut error = [0 as c_char; 256];
    // SAFETY: `rk` lives as long as `client`. Options, queue and event are made and destroyed here; an answer that comes after
    // the queue was destroyed is thrown away by librdkafka.
    unsafe {
        let options = native::rd_kafka_AdminOptions_new(rk, op);
        let queue = native::rd_kafka_queue_new(rk);
        native::rd_kafka_AdminOptions_set_request_timeout(options, ms, error.as_mut_ptr(), error.len());
        question(rk, options, queue);
        let event = native::rd_kafka_queue_poll(queue, ms);
        let told = if event.is_null() { None } else { answer(event) };
        if !event.is_null() {
            native::rd_kafka_event_destroy(event);
        }
        native::rd_kafka_queue_destroy(queue);
        native::rd_kafka_AdminOptions_destroy(options);
        told
    }
}

/// A C text, copied.
///
/// # Safety
/// Null, or a text that ends in a zero byte and is alive.
unsafe fn text(at: *const c_char) -> Option<String> {
    // SAFETY: the caller's.
    (!at.is_null()).then(|| unsafe { CStr::from_ptr(at) }.to_string_lossy().into_owned())
}
