-- Exports every study that has come to rest (StableAge seconds without a new instance), instance by instance.
-- What Dermbatch sent back is in the same study and is left out. Keys are Orthanc's own identifiers, which are
-- digests: no name and no number of a patient is in them, and the same instance always has the same key.

function OnStableStudy(study, tags, metadata, origin)
   for _, instance in ipairs(ParseJson(RestApiGet('/studies/' .. study .. '/instances'))) do
      local own = ParseJson(RestApiGet('/instances/' .. instance['ID'] .. '/simplified-tags'))
      if not string.find(own['SeriesDescription'] or '', '^Dermbatch ') then
         os.execute('/etc/orthanc/export-instance.sh ' .. instance['ID'] .. ' ' .. study .. ' &')
      end
   end
end
