//! job_plans
