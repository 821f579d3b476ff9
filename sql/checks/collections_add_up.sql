-- The live documents of a collection are those of the two formats plus the rejected ones.
SELECT
    source_collection,
    live_documents,
    prototype_documents,
    framework_documents,
    rejected_documents
FROM collections
WHERE
    coalesce(live_documents, 0) <> (
        coalesce(prototype_documents, 0)
        + coalesce(framework_documents, 0)
        + coalesce(rejected_documents, 0)
    )
