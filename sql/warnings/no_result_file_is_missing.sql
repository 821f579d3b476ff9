-- Every successful fit that was checked has its result file and its figure.
SELECT * FROM missing_result_files
