//! Which exceptions belong to which order: so that they are found by it.

use serde::Deserialize;
use serde_json::Value;
use sqlx::AssertSqlSafe;

use super::sql::{self, Conn, Dialect};
use crate::escalation::body;

/// Rows of a statement.
const CHUNK: usize = 250;

/// The order that a change's evidence names.
pub(super) fn of(evidence: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Wanted {
        facts: Facts,
    }
    #[derive(Deserialize)]
    struct Facts {
        order_id: Option<Value>,
    }
    let order = serde_json::from_str::<Wanted>(evidence).ok()?.facts.order_id?;
    Some(body::plain(&order)).filter(|text| !text.is_empty())
}

/// Keeps (exception, order); what is known already is a no-op.
pub(super) async fn insert(tx: &mut Conn, orders: &[(i64, String)]) -> sqlx::Result<()> {
    for chunk in orders.chunks(CHUNK) {
        let sql = sql::values_sql(
            Dialect::of(tx),
            "INSERT INTO exception_orders (exception, order_id) VALUES",
            2,
            chunk.len(),
            " ON CONFLICT (exception, order_id) DO NOTHING",
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (exception, order) in chunk {
            query = query.bind(*exception).bind(order.clone());
        }
        query.execute(&mut *tx).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn the_order_is_read_from_the_facts_alone() {
        let order = |text: &str| of(text);
        assert_eq!(
            order(r#"{"occurrences":[],"facts":{"lane":"x","order_id":"O-1"}}"#).as_deref(),
            Some("O-1")
        );
        assert_eq!(order(r#"{"facts":{"order_id":17}}"#).as_deref(), Some("17"));
        for none in
            ["", "{}", r#"{"facts":{}}"#, r#"{"facts":{"order_id":null}}"#, r#"{"facts":{"order_id":""}}"#]
        {
            assert_eq!(order(none), None, "{none}");
        }
    }
}
